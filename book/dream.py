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
import json
import sys
import tempfile
from pathlib import Path

import npm

from apv_edu.agent_files import load_agent
from apv_edu.assets import find_file
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.onnx_export import export_dream

AGENT = "tabletop_dream_agent.safetensors"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # noqa: E501
RUNTIME = ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm")
"""The files of the package that a browser needs."""


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
        folder = npm.fetch(PACKAGE, VERSION, INTEGRITY, RUNTIME, arguments.cache)
        module, wasm = ((folder / name).read_bytes() for name in RUNTIME)
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
    except (InputError, npm.FetchError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
