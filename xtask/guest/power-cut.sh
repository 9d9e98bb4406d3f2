#!/bin/sh
# One life of a guest whose power is cut while it stores layers: power-cut.sh DRIVER OPTIONS...
# The store is on /dev/ubda. First all that is named in KEPT (NUMBER=IMAGE..., as told by `kept` lines of earlier lives) is
# verified, then more is stored until the power goes. MICA is the command, IMAGE a tar of a root file system with busybox,
# and LAST=1 means that this life verifies, removes everything, and ends.
driver=$1
shift
options=$*
store=/var/tmp/store
size=40000

fail() {
    echo "lost: $*"
    exit 1
}

mica() {
    "$MICA" --root $store/root --storage-driver "$driver" $options "$@"
}

# The files of number N as a shell command, which WORD begins: what a container writes, or compares.
files() {
    for part in 1 2 3; do
        echo "yes $1.$part | head -c $((part * size + $1)) $2 /data/$1.$part"
    done
}

if [ -z "$KEPT" ]; then
    mkfs.ext4 -q -F /dev/ubda || exit
fi
mkdir -p $store
mount /dev/ubda $store || fail "the file system of the store does not mount"
mkdir -p $store/root

latest=0
for pair in $KEPT; do
    number=${pair%%=*}
    image=${pair#*=}
    # A number's own first file is deleted by the next one, and everything else stays.
    script="set -e"
    before=1
    while [ $before -le "$number" ]; do
        script="$script; $(files $before '| cmp -' | sed "$([ $before = "$number" ] || echo 1d)" | tr '\n' ';') true"
        [ $before = "$number" ] || script="$script; [ ! -e /data/$before.1 ]"
        before=$((before + 1))
    done
    mica run --rm --network none "$image" sh -c "$script" || fail "image $number, $image"
    latest=$number
    base=$image
done
if [ -n "$KEPT" ]; then
    # What was going on is gone or there: nothing in between, and nothing that needs a hand.
    mica storage check --full || fail "the store is not sound"
    for container in $(mica ps -aq); do
        mica export "$container" > /dev/null || fail "container $container has no files"
        mica rm -f "$container" > /dev/null || fail "container $container cannot be removed"
    done
    echo "verified $latest"
else
    base=$(mica import "$IMAGE" base) || fail "no base image"
    echo "kept 0=$base"
fi

if [ "$LAST" = 1 ]; then
    mica rmi -f $(mica images -aq | sort -u) > /dev/null || fail "images cannot be removed"
    told=$(mica storage check --full) || fail "the store is not sound at the end"
    echo "at the end: $told"
    case $told in
        "0 images, 0 image layers, 0 layers in drivers"*) ;;
        *) fail "something stays when everything is removed" ;;
    esac
    sync
    umount $store || fail "the store is busy: $(grep " $store" /proc/mounts)"
    exit 0
fi

number=$latest
while :; do
    number=$((number + 1))
    echo "begin $number"
    script="mkdir -p /data; $(files $number '>' | tr '\n' ';') rm -f /data/$((number - 1)).1"
    mica run --name c$number --network none "$base" sh -c "$script" || fail "run $number"
    base=$(mica commit c$number) || fail "commit $number"
    echo "kept $number=$base"
    mica rm c$number > /dev/null || fail "rm $number"
done
