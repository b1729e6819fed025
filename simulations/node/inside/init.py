"""The first process of a node's namespaces: makes them look like a machine of its own, then collects ended processes.

Run by `namespaces.py` as `unshare ... python -I -S init.py FOLDER NODE ADDRESS`. It imports nothing of ours.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

# kubelet writes these tunables of the whole machine at its start. Here it meets files that already say what it wants.
_TUNABLES = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}

_SETUP = """
set -eu
hostname "$NODE"
# A sysfs of this network namespace (the inherited one shows the machine's interfaces), with the machine's cgroups in it.
mkdir -p "$F/cgroups"; mount --rbind /sys/fs/cgroup "$F/cgroups"; mount -t sysfs sysfs /sys
mount --rbind "$F/cgroups" /sys/fs/cgroup; umount -l "$F/cgroups"
# Folders that kubelet, containerd and the network plugins have fixed ideas about.
mount -t tmpfs tmpfs /run; mkdir -p /run/lock
for folder in etc var opt; do
  mkdir -p "$F/upper/$folder" "$F/work/$folder"
  mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$F/upper/$folder,workdir=$F/work/$folder" "/$folder"
done
# On no overlay, since containers' own overlays lie on them.
for folder in /var/lib/kubelet /var/lib/containerd /var/log; do
  mkdir -p "$F/root$folder" "$folder"; mount --bind "$F/root$folder" "$folder"
done
mount --make-rshared /   # kubelet's volumes must show up in containerd
ip link set lo up
# A veth pair, since not every kernel has `dummy` interfaces. The route leads nowhere, but programs want to see a default one.
ip link add node0 type veth peer name wire
ip address add "$ADDRESS/24" dev node0; ip link set node0 up; ip link set wire up
ip route add default via "${ADDRESS%.*}.254"
echo 1 >/proc/sys/net/ipv4/ip_forward
"""


def main(folder: Path, node: str, address: str) -> None:
    """Set up, say so by a file, and wait for processes whose parents have gone."""
    environment = {**os.environ, "F": str(folder), "NODE": node, "ADDRESS": address}
    subprocess.run(["sh", "-c", _SETUP], check=True, env=environment)
    (folder / "tunables").mkdir()
    boot_id = folder / "tunables" / "boot_id"  # written anew when the node "reboots"
    boot_id.write_bytes(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    _cover(boot_id, "kernel/random/boot_id")
    for name, value in _TUNABLES.items():
        stand_in = folder / "tunables" / name.replace("/", ".")
        stand_in.write_text(f"{value}\n")
        _cover(stand_in, name)
    (folder / "namespaces-ready").touch()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


def _cover(stand_in: Path, tunable: str) -> None:
    subprocess.run(["mount", "--bind", str(stand_in), f"/proc/sys/{tunable}"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
