"""The command line: ``apv-edu collect | pack | pretrain | finetune | evaluate | ...``."""

import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr

import tyro

from apv_edu.agent_commands import Curves, Evaluate, ExportOnnx, Finetune, ImportOfficial
from apv_edu.commands import Collect, Export, Pack, Predict, Pretrain
from apv_edu.config import PRETRAIN, pretrain_config
from apv_edu.errors import InputError
from apv_edu.evidence_commands import Report, Sweep
from apv_edu.finetune_config import LAPTOP, finetune_config

Command = (
    Collect
    | Pack
    | Pretrain
    | Predict
    | Export
    | Finetune
    | Evaluate
    | ExportOnnx
    | Curves
    | Sweep
    | Report
    | ImportOfficial
)
COMMANDS: dict[str, type[Command]] = {
    "collect": Collect,
    "pack": Pack,
    "pretrain": Pretrain,
    "predict": Predict,
    "export": Export,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "export-onnx": ExportOnnx,
    "curves": Curves,
    "sweep": Sweep,
    "report": Report,
    "import-official": ImportOfficial,
}


def parse(arguments: Sequence[str]) -> Command:
    """The command that the arguments describe, with the defaults of the ``--preset`` they name.

    Raises:
        InputError: for an unknown preset, or a setting out of its range.
        SystemExit: by tyro, for ``--help`` and for arguments that do not parse.
    """
    missing = tyro.MISSING
    defaults = {
        "collect": Collect(env=missing, out=missing, videos=missing),
        "pack": Pack(source=missing, out=missing),
        "pretrain": Pretrain(data=missing, out=missing, config=pretrain_config(_preset(arguments))),
        "predict": Predict(model=missing, data=missing, out=missing),
        "export": Export(model=missing, out=missing),
        "finetune": Finetune(
            task=missing,
            out=missing,
            config=finetune_config(_preset(arguments), _suite(arguments)),
        ),
        "evaluate": Evaluate(agent=missing),
        "export-onnx": ExportOnnx(agent=missing, out=missing),
        "curves": Curves(runs=missing, out=missing),
        "sweep": Sweep(grid=missing, out=missing),
        "report": Report(files=missing, out=missing),
        "import-official": ImportOfficial(folder=missing, out=missing),
    }
    summaries = {name: (kind.__doc__ or "").split("\n")[0] for name, kind in COMMANDS.items()}
    commands = tyro.extras.subcommand_type_from_defaults(defaults, summaries)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                commands,
                prog="apv-edu",
                description="Learn world models from videos; every command has its own --help.",
                args=list(arguments),
            )
    except SystemExit as stop:
        cause = stop.__context__ and stop.__context__.__context__
        if isinstance(cause, InputError):  # tyro draws a box round what a nested setting refuses
            raise cause from None
        print(said.getvalue(), end="", file=sys.stderr)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for bad input, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Of the processes that torchrun starts on a machine one speaks; the others end with 0, so that
    # it is not ended before it has spoken.
    quiet = os.environ.get("LOCAL_RANK", "0") != "0"
    try:
        parse(arguments).run(shlex.join(["apv-edu", *arguments]))
    except InputError as error:
        if quiet:
            return 0
        print(f"apv-edu: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if quiet:
            return 0
        again = shlex.join(["apv-edu", *arguments])
        print(f"\nInterrupted. To go on: {again}", file=sys.stderr)
        return 130
    return 0


def _preset(arguments: Sequence[str]) -> str:
    """The value of ``--preset``, which decides the defaults of the other options."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--preset" and following in PRETRAIN:
            return following
        if argument.startswith("--preset="):
            return argument.partition("=")[2]
    return "laptop"


def _suite(arguments: Sequence[str]) -> str:
    """The suite of the first task that is named, which decides the settings of fine-tuning."""
    suites = [argument.partition(":")[0] for argument in arguments if ":" in argument]
    return next((suite for suite in suites if suite in LAPTOP), "tabletop")


if __name__ == "__main__":
    sys.exit(main())
