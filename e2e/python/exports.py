#!/usr/bin/python3
"""Exports of random instants, read back by programs that share no code with Strandline.

A client writes, trims and zeroes a volume over NBD and keeps a copy of the disk at each mark. Then
each mark is exported in every format and kind, and what other programs read from the files must be
that copy: qemu-img for all, the libyal readers for VHD, VHDX and VMDK, 7-Zip for VDI. Differences are
opened over the image of their base. The same export is made again, with and without a server, and
fetched in parts over HTTP: the bytes must be the same.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import nbd
import pyvhdi
import pyvmdk

MIB = 1 << 20
SIZE = 20 * MIB + 512

KINDS = [
    ("raw", None, "raw"),
    ("qcow2", None, "qcow2"),
    ("qcow2", "zlib", "qcow2"),
    ("qcow2", "zstd", "qcow2"),
    ("vhd", None, "vpc"),
    ("vhd", "fixed", "vpc"),
    ("vhdx", None, "vhdx"),
    ("vhdx", "fixed", "vhdx"),
    ("vdi", None, "vdi"),
    ("vdi", "static", "vdi"),
    ("vmdk", None, "vmdk"),
    ("vmdk", "flat", "vmdk"),
    ("vmdk", "streamOptimized", "vmdk"),
]

# Those that qemu-img checks, and those that take a base.
CHECKED = {"qcow2", "vmdk", "vdi", "vhdx"}
OVER = ["qcow2", "vhd", "vhdx", "vmdk", "vdi"]


def run(*command, ok=(0,)):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode not in ok:
        sys.exit(f"{command} ended with {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout


class House:
    """A store in a directory, with a server or without."""

    def __init__(self, program, folder):
        self.program, self.folder, self.server = program, folder, None
        os.environ["STRANDLINE_KEY_FILE"] = str(folder / "key")
        run(program, "store", "init", folder / "store", "--segment-size", "8M")
        self.ask("vol", "create", "vol", "--size", SIZE)

    def ask(self, *words, ok=(0,)):
        return run(self.program, "-s", self.folder / "store", *words, ok=ok)

    def serve(self):
        socket = self.folder / "nbd.sock"
        log = open(self.folder / "server.log", "ab")
        command = [self.program, "-s", str(self.folder / "store"), "serve", "--nbd", f"unix:{socket}"]
        self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        client = nbd.NBD()
        client.set_export_name("vol")
        until = time.monotonic() + 60
        while True:
            try:
                client.connect_unix(str(socket))
                return client
            except nbd.Error:
                assert self.server.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < until, "no greeting"
                client = nbd.NBD()
                client.set_export_name("vol")
                time.sleep(0.01)  # between two looks at a condition

    def stop(self):
        self.server.terminate()
        assert self.server.wait() == 0, (self.folder / "server.log").read_text()
        self.server = None


def change(client, disk, chance):
    """One request of a client, and the same on the model."""
    length = chance.choice([512, 4096, 5000, 70_000, 300_000, MIB])
    at = chance.randrange(0, SIZE - length + 1)
    what = chance.random()
    if what < 0.75:
        data = chance.randbytes(length) if what < 0.5 else bytes([chance.randrange(1, 256)]) * length
        client.pwrite(data, at)
    elif what < 0.9:
        data = bytes(length)
        client.trim(length, at)
    else:
        data = bytes(length)
        client.zero(length, at)
    disk[at : at + length] = data


def same(found, model, what):
    """Formats count in sectors, so what lies behind the disk is nothing."""
    if found != model:
        at = next((n for n, (a, b) in enumerate(zip(found, model)) if a != b), min(len(found), len(model)))
        sys.exit(f"{what}: other bytes from {at} on ({len(found)} of {len(model)} bytes)")


def by_qemu(path, driver, model, what, check=True):
    out = path.with_suffix(".read")
    run("qemu-img", "convert", "-f", driver, "-O", "raw", path, out)
    same(out.read_bytes(), model, f"{what}, by qemu-img")
    out.unlink()
    if check and driver in CHECKED:
        run("qemu-img", "check", "-f", driver, path)


def by_libyal(module, paths, model, what):
    files = []
    for path in paths:
        image = module.file() if module is pyvhdi else module.handle()
        image.open(str(path))
        if module is pyvmdk:
            image.open_extent_data_files()
        files.append(image)
    for child, parent in zip(files, files[1:]):
        assert child.get_parent_identifier() == parent.get_identifier(), f"{what}: another parent"
        child.set_parent(parent)
    top, found = files[0], bytearray()
    size = top.get_media_size()
    top.seek_offset(0, 0)
    while len(found) < size:
        found += top.read_buffer(min(size - len(found), MIB))
    same(bytes(found), model, f"{what}, by {module.__name__}")
    for image in files:
        image.close()


def by_7zip(path, kind, model, what):
    found = run("7zz", "x", f"-t{kind}", "-so", path)
    same(found, model, f"{what}, by 7-Zip")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def export(house, instant, out, *words):
    told = json.loads(house.ask("image", "export", instant, out, "--json", "--progress", "none", *words))
    for file in told["files"]:
        path = pathlib.Path(file["path"])
        assert digest(path) == file["sha256"], f"{path}: the digest that was told is another"
        assert path.stat().st_size == file["length"], f"{path}: the length that was told is another"
    return told


def whole(house, folder, number, model, again):
    """Every kind of one instant."""
    for form, kind, driver in KINDS:
        what = f"mark m{number}, {form} {kind or ''}"
        out = folder / f"{form}-{kind or 'usual'}.{form}"
        words = ["--subformat", kind] if kind else []
        told = export(house, f"vol@mark:m{number}", out, "--force", *words)
        key = (number, form, kind)
        if key in again:
            assert again[key] == told["manifest"], f"{what}: other bytes than before"
        again[key] = told["manifest"]
        by_qemu(out, driver, model, what)
        if form in ("vhd", "vhdx"):
            by_libyal(pyvhdi, [out], model, what)
        if form == "vmdk":
            by_libyal(pyvmdk, [out], model, what)
        if form in ("vdi", "qcow2") and kind != "zstd":
            by_7zip(out, "qcow" if form == "qcow2" else form, model, what)
        streamed = run(
            house.program, "-s", house.folder / "store", "image", "export", f"vol@mark:m{number}", "-",
            "--to", form, *words, "--progress", "none", ok=(2,) if kind == "flat" else (0,),
        )
        if kind != "flat" and form != "vmdk":  # its name stands in a VMDK
            assert hashlib.sha256(streamed).hexdigest() == told["files"][0]["sha256"], f"{what}: the stream differs"


def differences(house, folder, models):
    """Each instant over the one before it, and over a difference that ends there."""
    for form in OVER:
        driver = dict((form, driver) for form, _, driver in KINDS)[form]
        paths = [folder / f"chain-0.{form}"]
        export(house, "vol@mark:m0", paths[0], "--force")
        for number in range(1, len(models)):
            out = folder / f"chain-{number}.{form}"
            export(
                house, f"vol@mark:m{number}", out, "--force",
                "--base", f"vol@mark:m{number - 1}", "--base-file", paths[-1].name,
            )
            paths.append(out)
            what = f"{form}: m{number} over what ends at m{number - 1}"
            if form in ("qcow2", "vmdk"):
                by_qemu(out, driver, models[number], what, check=form == "qcow2")
            if form in ("vhd", "vhdx"):
                by_libyal(pyvhdi, paths[::-1], models[number], what)
            read = folder / "own.raw"
            run(house.program, "image", "convert", out, read, "--force", "--format", form, "--progress", "none")
            same(read.read_bytes(), models[number], f"{what}, by our own reader")
        # Over the whole image of the base, which is another file than the chain's.
        last = len(models) - 1
        export(house, f"vol@mark:m{last - 1}", folder / f"whole.{form}", "--force")
        out = folder / f"over.{form}"
        export(
            house, f"vol@mark:m{last}", out, "--force",
            "--base", f"vol@mark:m{last - 1}", "--base-file", f"whole.{form}",
        )
        read = folder / "own.raw"
        run(house.program, "image", "convert", out, read, "--force", "--format", form, "--progress", "none")
        same(read.read_bytes(), models[last], f"{form}: over the whole image of its base")
        for path in folder.iterdir():
            path.unlink()


def over_http(house, folder, chance):
    """Parts of files by curl, as of any web server."""
    socket = house.folder / "store" / "control.sock"

    def curl(query, *words):
        url = f"http://x/v1/export/read?ref=vol@mark:m1&{query}"
        return run("curl", "-sS", "--unix-socket", socket, *words, url)

    for form in ("raw", "qcow2", "vhdx", "vhd", "vdi", "vmdk"):
        out = folder / f"disk.{form}"
        export(house, "vol@mark:m1", out, "--force")
        file, query = out.read_bytes(), f"format={form}&name=disk.{form}"
        assert curl(query) == file, f"{form}: fetched bytes differ"
        for _ in range(8):
            start = chance.randrange(len(file))
            end = min(len(file), start + chance.choice([1, 513, 70_000, 3 * MIB]))
            part = curl(query, "-r", f"{start}-{end - 1}")
            assert part == file[start:end], f"{form}: bytes {start}-{end - 1} differ"
        code = curl(query, "-r", f"{len(file)}-", "-o", "/dev/null", "-w", "%{http_code}")
        assert code == b"416", code
        # A download that was cut off goes on where it ended.
        half = folder / "half"
        half.write_bytes(file[: len(file) // 2])
        curl(query, "-C", "-", "-o", str(half))
        assert half.read_bytes() == file, f"{form}: a resumed download differs"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--marks", type=int, default=3)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="strandline-exports-") as name:
        folder = pathlib.Path(name)
        house = House(options.program, folder)
        client = house.serve()
        disk, models = bytearray(SIZE), []
        for number in range(options.marks):
            for _ in range(chance.randrange(5, 40)):
                change(client, disk, chance)
            house.ask("mark", "add", "vol", f"m{number}")
            models.append(bytes(disk))
        change(client, disk, chance)
        out = folder / "out"
        out.mkdir()
        again = {}
        for number, model in enumerate(models):
            whole(house, out, number, model, again)
        differences(house, out, models)
        over_http(house, out, chance)
        client.shutdown()
        house.stop()
        # Without a server, from the store as it was packed, the bytes are the same.
        last = len(models) - 1
        whole(house, out, last, models[last], again)
    print(f"{len(models)} instants, {len(KINDS)} kinds, differences in {len(OVER)} formats: all as written")


main()
