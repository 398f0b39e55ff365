"""Write sidecar/_pb from the .proto files: `python protos/generate.py`.

With `--check` nothing is written; the exit status is 1 where a file on disk differs.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
PACKAGE = PROTOS.parent / "sidecar" / "_pb"

# Clients such as tritonclient register the same message names in protobuf's default pool, and one pool
# takes a name once: a pool of our own lets both live in one process. The version guards go because
# pyproject.toml says which versions are supported, and the code needs nothing newer than those.
EDITS: tuple[tuple[str, str, str], ...] = (
    ("_pb2.py", r"_descriptor_pool\.Default\(\)", "_descriptor_pool.DescriptorPool()"),
    ("_pb2.py", r"from google\.protobuf import runtime_version as .*\n", ""),
    ("_pb2.py", r"_runtime_version\.ValidateProtobufRuntimeVersion\((?:\n {4}.*)*\n\)\n", ""),
    ("_pb2.py", r"# Protobuf Python Version: .*\n", ""),
    ("_pb2_grpc.py", r"^import (\w+_pb2) as ", r"from sidecar._pb import \1 as "),
    ("_pb2_grpc.py", r"import warnings\n", ""),
    ("_pb2_grpc.py", r"GRPC_GENERATED_VERSION = (?:.*\n)*?    \)\n\n", ""),
)


def generate() -> dict[str, str]:
    """File name -> source of every module that belongs in sidecar/_pb.

    Raises RuntimeError where protoc fails, or no longer writes what an edit is about.
    """
    modules = {"__init__.py": '"""Generated from protos/ by protos/generate.py. Do not edit."""\n'}
    with tempfile.TemporaryDirectory() as folder:
        for proto in sorted(PROTOS.glob("*.proto")):
            outputs = [f"--python_out={folder}"]
            if re.search(r"^service ", proto.read_text(encoding="utf-8"), re.MULTILINE):
                outputs.append(f"--grpc_python_out={folder}")
            if protoc.main(["protoc", f"-I{PROTOS}", *outputs, proto.name]):
                raise RuntimeError(f"protoc refused {proto.name}")
        for path in sorted(Path(folder).iterdir()):
            modules[path.name] = _edited(path.name, path.read_text(encoding="utf-8"))
    return modules


def _edited(name: str, source: str) -> str:
    for suffix, pattern, replacement in EDITS:
        if name.endswith(suffix):
            source, found = re.subn(pattern, replacement, source, flags=re.MULTILINE)
            if not found:
                raise RuntimeError(f"protoc's {name} has nothing like {pattern!r} any more")
    return source


def differing(modules: dict[str, str], package: Path = PACKAGE) -> list[str]:
    """Names of files in `package` that are missing, differ from `modules`, or should not be there."""
    present = {path.name: path.read_text(encoding="utf-8") for path in package.glob("*.py")}
    return sorted(name for name in modules | present if modules.get(name) != present.get(name))


def main(arguments: list[str]) -> int:
    modules = generate()
    if arguments == ["--check"]:
        for name in (names := differing(modules)):
            print(f"{PACKAGE / name} is not what protos/generate.py writes")
        return 1 if names else 0
    if arguments:
        print(__doc__)
        return 2
    PACKAGE.mkdir(exist_ok=True)
    for name, source in modules.items():
        (PACKAGE / name).write_text(source, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
