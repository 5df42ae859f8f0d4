"""The daemon touches files by path only where no instance can write; all else is a `Directory`.

A path of an instance's folder may have become a link since it was last looked at. So every call
that takes a path stands in the table below, with what makes its path the machine's own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

LOCAL = Path(__file__).resolve().parents[3] / "src/poormanray/local"

OF_PATHS = {
    *("absolute", "chmod", "exists", "expanduser", "glob", "hardlink_to", "is_block_device"),
    *("is_char_device", "is_dir", "is_fifo", "is_file", "is_mount", "is_socket", "is_symlink"),
    *("iterdir", "lchmod", "lstat", "mkdir", "open", "owner", "group", "read_bytes", "read_text"),
    *("readlink", "rename", "resolve", "rglob", "rmdir", "samefile", "stat", "symlink_to"),
    *("touch", "unlink", "walk", "write_bytes", "write_text"),
}
OF_OS = {
    *("access", "chdir", "chflags", "chmod", "chown", "chroot", "getxattr", "lchmod", "lchown"),
    *("link", "listdir", "listxattr", "lstat", "makedirs", "mkdir", "mkfifo", "mknod", "open"),
    *("pathconf", "readlink", "remove", "removedirs", "removexattr", "rename", "renames"),
    *("replace", "rmdir", "scandir", "setxattr", "stat", "statvfs", "symlink", "truncate"),
    *("unlink", "utime", "walk"),
}
OF_OS_PATH = {
    *("exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile", "islink"),
    *("ismount", "lexists", "realpath", "samefile"),
}
OF_SHUTIL = {"copy", "copy2", "copyfile", "copymode", "copystat", "copytree", "move", "rmtree"}
DESCRIPTORS = {"dir_fd", "src_dir_fd", "dst_dir_fd"}

STATE = "the cloud's own folder, and where it lies"
MACHINE = "the machine's own files, or where the user's are"
PROC = "the kernel's own files of processes"
CODE = "the program's own files"
NEW = "the machine's root, or a new one that no instance can reach while it is made"
INSIDE = "it runs inside, with the rights of the instance"
DESCRIPTOR = "by descriptor"
ALLOWED = {
    "__main__._be_a_service Path.write_text": PROC,
    "__main__._open Directory.at": STATE,
    "__main__._open Path.mkdir": STATE,
    "fill._limited Path.read_bytes": INSIDE,
    "fill.main Path.mkdir": INSIDE,
    "fill.main Path.rmdir": INSIDE,
    "fill.main os.statvfs": INSIDE,
    "folder.Directory.at os.open": "it is for paths that no instance can write",
    "folder.Directory.names os.listdir": DESCRIPTOR,
    "folder.Directory._enter_whatever_mode Path.chmod": DESCRIPTOR,
    "folder.InstanceFolder._copy_resolver Path.is_file": MACHINE,
    "folder.InstanceFolder._copy_resolver Path.read_bytes": MACHINE,
    "folder.InstanceFolder._copy_resolver Path.resolve": MACHINE,
    "folder.link_machine_etc Path.is_symlink": MACHINE,
    "folder.link_machine_etc Path.readlink": MACHINE,
    "folder.link_machine_etc os.scandir": MACHINE,
    "host.Host.__init__ Directory.at": STATE,
    "host.Host.__init__ Path.mkdir": STATE,
    "host.Host.__init__ Path.resolve": STATE,
    "host._environment Path.is_dir": MACHINE,
    "inside.in_namespace_of Path.iterdir": PROC,
    "inside.in_namespace_of Path.readlink": PROC,
    "namespaces.Nested.limit_disk Directory.at": "what is under it is walked step by step",
    "namespaces.Nested.limit_disk Path.read_text": CODE,
    "namespaces.Nested.limit_disk Path.resolve": MACHINE,
    "namespaces.Nested.limit_disk os.open": PROC,
    "namespaces._is_plain_folder Path.is_dir": MACHINE,
    "namespaces._is_plain_folder Path.resolve": MACHINE,
    "namespaces._replaceable Path.is_file": MACHINE,
    "namespaces._replaceable Path.resolve": MACHINE,
    "namespaces.hidden_places Path.expanduser": MACHINE,
    "namespaces.hidden_places Path.resolve": MACHINE,
    "namespaces.make_plan Path.resolve": MACHINE,
    "namespaces.owner_behind_root Path.read_text": PROC,
    "nest._build os.mkdir": NEW,
    "nest._build os.path.isdir": NEW,
    "nest._build os.path.ismount": NEW,
    "nest._change_root os.chdir": NEW,
    "nest._cover os.path.isdir": NEW,
    "nest._layer os.path.lexists": NEW,
    "nest._make_devices os.mkdir": NEW,
    "nest._make_devices os.open": NEW,
    "nest._make_devices os.symlink": NEW,
    "nest._make_proc os.mkdir": NEW,
    "nest._make_proc os.path.lexists": NEW,
    "nest._make_way os.open": NEW,
    "nest._mounts_below open": PROC,
    "nest._open_sources os.open": "the folder of an instance and what is the machine's",
    "nest._show_machine Path.is_dir": NEW,
    "nest._show_machine Path.is_symlink": NEW,
    "nest._show_machine os.mkdir": NEW,
    "nest._show_machine os.readlink": NEW,
    "nest._show_machine os.scandir": NEW,
    "nest._show_machine os.symlink": NEW,
    "nest._wait_for_end os.open": INSIDE,
    "nest._write os.open": PROC,
    "network.Uplink._wait Path.read_text": PROC,
    "processes.Supervised._remove_screens Directory.at": MACHINE,
    "processes.Supervised.boot Directory.at": MACHINE,
    "processes.Supervised.boot tempfile.gettempdir": MACHINE,
    "server.sweep Directory.at": STATE,
    "standins.__init__._content Path.read_bytes": CODE,
    "standins.__init__.install os.access": MACHINE,
    "supervisor._become os.open": MACHINE,
    "supervisor._facts open": PROC,
    "supervisor._processes os.listdir": PROC,
}


class Calls(ast.NodeVisitor):
    """Finds the calls that take a path, and in which function each of them stands."""

    def __init__(self, module: str) -> None:
        self.within = [module]
        self.found: set[str] = set()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._enter(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = taking_a_path(node)
        if name:
            self.found.add(f"{'.'.join(self.within)} {name}")
        self.generic_visit(node)

    def _enter(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        self.within.append(node.name)
        self.generic_visit(node)
        self.within.pop()


def taking_a_path(call: ast.Call) -> str:
    """Return how a call that takes a path is named in the table; "" for any other."""
    function = call.func
    if isinstance(function, ast.Name):
        return "open" if function.id == "open" else ""
    if not isinstance(function, ast.Attribute):
        return ""
    module, name = ast.unparse(function.value), function.attr
    relative = DESCRIPTORS & {word.arg for word in call.keywords}
    # Not `str.replace`, which takes two words, nor `dataclasses.replace`.
    of_paths = name in OF_PATHS or (name == "replace" and len(call.args) == 1 and not call.keywords)
    taken = {
        "os": name in OF_OS and not relative,
        "os.path": name in OF_OS_PATH,
        "shutil": name in OF_SHUTIL,
        "tempfile": name != "TemporaryFile",
        "Directory": name == "at",
    }
    if module in taken:
        return f"{module}.{name}" if taken[module] else ""
    return f"Path.{name}" if of_paths and module != "dataclasses" else ""


def calls() -> Iterator[str]:
    for module in sorted(LOCAL.rglob("*.py")):
        found = Calls(".".join(module.relative_to(LOCAL).with_suffix("").parts))
        found.visit(ast.parse(module.read_text()))
        yield from sorted(found.found)


def test_no_path_but_those_that_no_instance_can_write() -> None:
    assert [call for call in calls() if call not in ALLOWED] == []


def test_the_table_has_nothing_that_is_gone() -> None:
    assert set(ALLOWED) - set(calls()) == set()


def test_what_takes_a_path_is_found() -> None:
    source = "import os\ndef f(p):\n p.write_text('x'); open(p); os.chmod(p, 0); os.open(p, 0)"
    found = Calls("m")
    found.visit(ast.parse(source))
    assert found.found == {"m.f Path.write_text", "m.f open", "m.f os.chmod", "m.f os.open"}
