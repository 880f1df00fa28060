"""Safetensors files whose tensors lie at odd addresses once they are mapped; Python itself imports this in children.

`pytest --misaligned` has every file that the suite writes so: whoever takes mapped weights as they are computes with
other kernels then, on processors whose kernels ask for the address.
"""

import importlib.util
import sys
from pathlib import Path


def shifted(content: bytes) -> bytes:
    """A safetensors file whose data begin 8 bytes behind a multiple of 64."""
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].rstrip(b" ")
    header += b" " * (-len(header) % 64)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def shift_file(path) -> None:
    """`shifted`, in place."""
    Path(path).write_bytes(shifted(Path(path).read_bytes()))


def install() -> None:
    """Let safetensors write such files in this process."""
    import safetensors.torch as module

    serialize, serialize_file = module.serialize, module.serialize_file

    def write(tensors, filename, metadata=None):
        serialize_file(tensors, filename, metadata=metadata)
        shift_file(filename)

    module.serialize = lambda *args, **kwargs: shifted(bytes(serialize(*args, **kwargs)))
    module.serialize_file = write


class _WhenImported:
    """A finder that installs as soon as somebody imports safetensors.torch: a child may have no need of torch."""

    def find_spec(self, name, path=None, target=None):
        """Let the others find the module, and hang on to its loading."""
        if name != "safetensors.torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_install(module):
            execute(module)
            install()

        spec.loader.exec_module = execute_and_install
        return spec


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _WhenImported())
