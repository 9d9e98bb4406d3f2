#!/bin/sh
# The first process of the guest. The kernel's command line gives OUT, the host's directory that is shared both ways,
# and MODULES, where the kernel's modules are. What is written elsewhere goes to memory, and with it at the end.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
busybox=/bin/busybox

end() {
    sync
    $busybox poweroff -f
}

if [ "$1" != inside ]; then
    # Root is the host's own, read-only: put memory over it, and make that the root.
    # (A chroot would not do, since no user namespace can be made in one.)
    $busybox insmod "$MODULES/kernel/fs/overlayfs/overlay.ko" || end
    $busybox mount -t tmpfs -o size=100% tmpfs /mnt || end
    mkdir /mnt/upper /mnt/work /mnt/root
    $busybox mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root || end
    mkdir /mnt/root/host /mnt/root/out
    $busybox mount -t hostfs -o "$OUT" none /mnt/root/out || end
    cd /mnt/root || end
    $busybox pivot_root . host || end
    exec /out/init.sh inside
fi

mount -t proc proc /proc
umount -l /host && rmdir /host
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
for dir in /dev/shm /run /tmp; do
    mount -t tmpfs -o mode=1777 tmpfs $dir
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up 2> /dev/null

release=$(uname -r)
mkdir -p "/lib/modules/$release"
mount --bind "$MODULES" "/lib/modules/$release"
if [ ! -e /sbin/modprobe ]; then
    ln -s $busybox /sbin/modprobe
fi
for module in quota_v2 loop fuse dm-mod dm-thin-pool dm-flakey; do
    modprobe $module || echo "no module $module"
done
# Temporary files are on a disk, since a tmpfs is no file system to store layers on.
case $SCRATCH in
    xfs) mkfs.xfs -q /dev/ubdp && mount -o prjquota /dev/ubdp /var/tmp ;;
    *) mkfs.ext4 -q -O quota,project -E quotatype=prjquota /dev/ubdp && mount -o prjquota /dev/ubdp /var/tmp ;;
esac
chmod 1777 /var/tmp
export TMPDIR=/var/tmp

# No udev runs here: whoever uses libdevmapper must make its nodes itself.
export DM_DISABLE_UDEV=1

/bin/sh /out/job.sh < /dev/null > /dev/ttyS0 2>&1
echo $? > /out/status
dmesg > /out/dmesg
end
