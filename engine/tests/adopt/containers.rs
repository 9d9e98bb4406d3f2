//! Containers of an old Docker: what they changed is there, and they can be started.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use rustix::fs::{XattrFlags, setxattr};
use serde_json::{Value, json};

use crate::docker::{DRIVERS, Driver, OldContainer, OldDocker, busybox, chmod};
use crate::home::{Answer, Home};
use crate::untar::whiteout;

/// What a container did: a file deleted, one changed, a directory made anew, and links.
fn change(driver: Driver, container: &OldContainer) {
    container.put("etc/new", "new\n");
    container.put("srv/fresh", "fresh\n");
    fs::hard_link(container.changes.join("etc/new"), container.changes.join("srv/linked")).unwrap();
    let at = |path: &str| container.changes.join(path);
    match driver {
        // As AUFS leaves a branch: whiteouts are links of one file.
        Driver::Aufs => {
            for directory in [".wh..wh.plnk", ".wh..wh.orph"] {
                fs::create_dir(at(directory)).unwrap();
                chmod(&at(directory), 0o700);
            }
            fs::write(at(".wh..wh.aufs"), "").unwrap();
            chmod(&at(".wh..wh.aufs"), 0o444);
            for whiteout in ["etc/.wh.motd", "srv/.wh..wh..opq"] {
                fs::hard_link(at(".wh..wh.aufs"), at(whiteout)).unwrap();
            }
        }
        Driver::Overlay2 => {
            whiteout(&at("etc/motd"));
            setxattr(at("srv"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
            setxattr(at("etc"), "trusted.overlay.impure", b"y", XattrFlags::empty()).unwrap();
            setxattr(at("etc"), "trusted.overlay.origin", b"\0\xfb\x01", XattrFlags::empty()).unwrap();
        }
    }
}

fn inspect(home: &Home, name: &str) -> Value {
    serde_json::from_str::<Value>(&home.ok(&["inspect", name])).unwrap()[0].clone()
}

fn adopt(home: &Home, docker: &OldDocker) -> Answer {
    let answer = home.run(&["storage", "adopt", docker.place()]);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    answer
}

#[test]
fn a_container_starts_with_what_it_changed() {
    for old_driver in DRIVERS {
        for driver in Home::new().drivers() {
            let mut docker = OldDocker::new(old_driver);
            let image = docker.add(&["app:1"], &[busybox()]);
            let script = "cat /etc/new; ls /etc/motd /srv; stat -c %h /srv/linked";
            let container = docker.create("web", &image, &["sh", "-c", script]);
            change(old_driver, &container);
            let home = Home::new();
            let run = |arguments: &[&str]| home.run(&[&["--storage-driver", &driver], arguments].concat());
            let answer = run(&["storage", "adopt", docker.place()]);
            assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""), "{answer:?}");
            assert_eq!(answer.out, "Adopted image: app:1\nAdopted container: web\n");
            let answer = run(&["diff", "web"]);
            let expected = "C /etc\nD /etc/motd\nA /etc/new\nC /srv\nA /srv/fresh\nA /srv/linked\nD /srv/old\nD /srv/one\n\
                            D /srv/two\n";
            assert_eq!(answer.out, expected, "{old_driver:?} on {driver}");
            let answer = run(&["start", "-a", "web"]);
            assert_eq!(answer.out, "new\n/srv:\nfresh\nlinked\n2\n", "{answer:?}");
            assert!(answer.err.contains("/etc/motd: No such file"), "{answer:?}");
            home.assert_consistent();
            assert_eq!(home.ok(&["ps", "-aq", "--no-trunc"]).trim(), container.id);
            home.ok(&["rm", "web"]);
            home.ok(&["rmi", "app:1"]);
            home.assert_empty();
        }
    }
}

/// Gives a container everything that can be said of one.
fn configure(container: &OldContainer) {
    container.configure(|config| {
        config["State"] = json!({ "Running": false, "ExitCode": 4, "OOMKilled": true, "Error": "",
            "StartedAt": "2021-01-01T00:00:00Z", "FinishedAt": "2021-01-02T00:00:00.5Z" });
        config["Config"] = json!({ "Hostname": "box", "User": "0:0", "Tty": true, "OpenStdin": true, "StdinOnce": true,
            "Env": ["A=1", "B=2 3"], "Cmd": ["-c", "exit 4"], "Image": "app:1", "WorkingDir": "/srv",
            "Entrypoint": ["/bin/sh"], "Labels": { "k": "v" }, "StopSignal": "SIGINT" });
        config["MountPoints"] = json!({
            "/data": { "Type": "bind", "Source": "/srv", "Destination": "/data", "RW": false, "Name": "" },
            "/v": { "Type": "volume", "Source": "/var/lib/docker/volumes/db/_data", "Destination": "/v", "RW": true,
                "Name": "db", "Driver": "local" },
            "/m": { "Type": "volume", "Source": "/var/lib/docker/volumes/mine/_data", "Destination": "/m", "RW": true,
                "Name": "mine", "Driver": "local" },
        });
    });
    container.configure_host(|host| {
        *host = json!({ "NetworkMode": "default", "PortBindings": { "80/tcp": [{ "HostPort": "80" }] },
            "RestartPolicy": { "Name": "always" }, "CapAdd": ["NET_ADMIN"], "CapDrop": ["CAP_CHOWN"], "Memory": 1 << 26,
            "NanoCpus": 500_000_000, "PidsLimit": 100, "ReadonlyRootfs": true, "Tmpfs": { "/run": "size=1m" },
            "Ulimits": [{ "Name": "nofile", "Soft": 64, "Hard": 128 }],
            "SecurityOpt": ["no-new-privileges", "label=disable"], "Privileged": false });
    });
}

#[test]
fn a_container_is_what_it_was() {
    let mut docker = OldDocker::new(DRIVERS[1]);
    let image = docker.add(&["app:1"], &[busybox()]);
    let container = docker.create("web", &image, &["-c", "exit 4"]);
    configure(&container);
    let home = Home::new();
    home.ok(&["volume", "create", "mine"]);
    let answer = adopt(&home, &docker);
    for told in [
        "it uses the volume 'mine' that was here before",
        "'/srv' of the host stays mounted at '/data'",
        "what is in its volume 'db' at '/v' does not come along: copy '/var/lib/docker/volumes/db/_data'",
        "it comes without the security option 'label=disable', '--restart always'",
    ] {
        assert!(answer.err.contains(&format!("mica: warning: container web: {told}")), "{answer:?}");
    }
    let found = inspect(&home, "web");
    let config = &found["Config"];
    for (name, value) in [
        ("Hostname", json!("box")),
        ("User", json!("0:0")),
        ("Tty", json!(true)),
        ("OpenStdin", json!(true)),
        ("Env", json!(["A=1", "B=2 3"])),
        ("Cmd", json!(["-c", "exit 4"])),
        ("Entrypoint", json!(["/bin/sh"])),
        ("WorkingDir", json!("/srv")),
        ("Labels", json!({ "k": "v" })),
        ("Image", json!("app:1")),
    ] {
        assert_eq!(config[name], value, "{name}");
    }
    let host = &found["HostConfig"];
    assert_eq!((&host["Memory"], &host["ReadonlyRootfs"]), (&json!(1 << 26), &json!(true)));
    let wished = json!({ "80/tcp": [{ "HostIp": "", "HostPort": "80" }] });
    assert_eq!((&host["NetworkMode"], &host["PortBindings"]), (&json!("bridge"), &wished));
    assert_eq!(found["Created"], "2020-02-03T04:05:06.123456789Z");
    let state = &found["State"];
    assert_eq!(
        (&state["Status"], &state["ExitCode"], &state["OOMKilled"]),
        (&json!("exited"), &json!(4), &json!(true))
    );
    assert_eq!(state["FinishedAt"], "2021-01-02T00:00:00.5Z");
    let mut volumes = home.names("volumes");
    volumes.sort();
    assert_eq!(volumes, ["db", "mine"]);
}

/// As Docker 20.10 records the networks of a container that does not run.
fn connect(container: &OldContainer, first: &str, networks: &Value) {
    container.configure_host(|host| {
        host["NetworkMode"] = json!(first);
    });
    container.configure(|config| {
        config["NetworkSettings"] = json!({ "Bridge": "", "Ports": {}, "Networks": networks });
    });
}

#[test]
fn a_container_is_in_the_networks_of_the_names_that_it_had_as_far_as_they_are_here() {
    let mut docker = OldDocker::new(DRIVERS[1]);
    let image = docker.add(&["app:1"], &[busybox()]);
    let shop = docker.create("shop", &image, &["true"]);
    let back = json!({ "IPAMConfig": { "IPv4Address": "10.9.0.9" }, "Aliases": ["store", &shop.id[..12]], "NetworkID": "b1" });
    let strange =
        json!({ "IPAMConfig": { "IPv4Address": "10.8.0.8" }, "Aliases": ["till"], "NetworkID": "c1" });
    connect(&shop, "web", &json!({ "back": back, "web": strange, "bridge": null, "gone": strange }));
    connect(&docker.create("alone", &image, &["true"]), "gone", &json!({}));
    let home = Home::new();
    let id = home.ok(&["network", "create", "web"]).trim().to_owned();
    home.ok(&["network", "create", "--subnet", "10.9.0.0/24", "back"]);
    let told = adopt(&home, &docker).err;
    for line in [
        "container shop: it comes without its addresses in network 'web': no configured subnet contains IP address 10.8.0.8",
        "container shop: it is not connected to network 'gone': no such network: gone; 'mica network create' makes one, and \
         'mica network connect --ip 10.8.0.8 --alias till gone shop' connects it",
        "container alone: it is not connected to network 'gone'",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let networks = |name: &str| inspect(&home, name)["NetworkSettings"]["Networks"].clone();
    assert_eq!(networks("alone"), json!({}));
    let shown = networks("shop");
    assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), ["back", "bridge", "web"]);
    assert_eq!((&shown["web"]["NetworkID"], &shown["web"]["Aliases"]), (&json!(id), &json!(["till"])));
    assert_eq!(shown["back"]["IPAMConfig"], json!({ "IPv4Address": "10.9.0.9" }));
    assert_eq!(shown["back"]["Aliases"], json!(["store"]));
    assert_eq!(inspect(&home, "shop")["HostConfig"]["NetworkMode"], "web", "the first interface is there");
}

#[test]
fn one_that_ran_when_its_host_went_down_is_one_that_was_killed() {
    let mut docker = OldDocker::new(DRIVERS[0]);
    let image = docker.add(&["app:1"], &[busybox()]);
    let container = docker.create("web", &image, &["echo", "again"]);
    container.configure(|config| {
        config["State"] = json!({ "Running": true, "ExitCode": 0, "StartedAt": "2021-01-01T00:00:00Z" });
    });
    let home = Home::new();
    adopt(&home, &docker);
    assert_eq!(home.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "web"]), "exited 137\n");
    assert_eq!(home.ok(&["start", "-a", "web"]), "again\n");
}

/// Without `auplink flush`, `/.wh..wh.plnk` has names of files whose other names are in the image.
#[test]
fn what_aufs_left_in_disorder_is_told() {
    let mut docker = OldDocker::new(Driver::Aufs);
    let image = docker.add(&["app:1"], &[busybox()]);
    let container = docker.create("web", &image, &["cat", "/srv/one", "/srv/two"]);
    container.put("srv/one", "changed\n");
    let links = container.changes.join(".wh..wh.plnk");
    fs::create_dir(&links).unwrap();
    let written = container.changes.join("srv/one");
    fs::hard_link(&written, links.join(format!("77.{}", fs::metadata(&written).unwrap().ino()))).unwrap();
    fs::write(links.join("78.4711"), "the only one").unwrap();
    let home = Home::new();
    let answer = adopt(&home, &docker);
    assert!(answer.err.contains("container web: AUFS was not unmounted in good order"), "{answer:?}");
    assert!(
        answer.err.contains(
            "1 of its files are left out, for which only '.wh..wh.plnk' has a name, such as '78.4711'"
        ),
        "{answer:?}"
    );
    assert_eq!(home.ok(&["start", "-a", "web"]), "changed\nboth\n");
    assert_eq!(home.ok(&["diff", "web"]), "C /srv\nC /srv/one\n");
}

/// `docker rmi --force` takes the image away, and leaves its layers to the container.
#[test]
fn one_whose_image_was_removed_stands_on_its_layers() {
    let mut docker = OldDocker::new(DRIVERS[1]);
    let image = docker.add(&[], &[busybox(), crate::archives::tar(&[("srv/", b""), ("srv/x", b"1\n")])]);
    let container = docker.create("web", &image, &["cat", "/srv/x", "/srv/mine"]);
    container.put("srv/mine", "mine\n");
    fs::remove_dir_all(docker.path().join("image/overlay2/imagedb/content")).unwrap();
    let home = Home::new();
    let answer = adopt(&home, &docker);
    assert!(answer.err.contains(&format!("container web: its image {} was removed", image.id)), "{answer:?}");
    assert_eq!(answer.out, "Adopted container: web\n");
    assert_eq!(home.ok(&["start", "-a", "web"]), "1\nmine\n");
    home.assert_consistent();
    home.ok(&["rm", "web"]);
    adopt(&home, &docker);
    assert_eq!(home.names("images").len(), 1, "it is the same image each time");
}

#[test]
fn two_who_adopt_at_once_take_everything_once() {
    let mut docker = OldDocker::new(DRIVERS[1]);
    let image = docker.add(&["app:1"], &[busybox()]);
    for name in ["one", "two", "three"] {
        docker.create(name, &image, &["echo", name]);
    }
    let home = Home::new();
    let spawn = || {
        let mut command = home.command(&["storage", "adopt", docker.place()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| spawn()).collect();
    for child in children {
        let answer = Answer::from(child.wait_with_output().unwrap());
        assert_eq!((answer.status, answer.out.lines().count()), (Some(0), 4), "{answer:?}");
    }
    home.assert_consistent();
    assert_eq!(home.names("containers").len(), 3);
    assert_eq!(home.ok(&["start", "-a", "two"]), "two\n");
}

#[test]
fn files_keep_their_holes() {
    use std::os::unix::fs::FileExt;
    let mut docker = OldDocker::new(DRIVERS[1]);
    let image = docker.add(&["app:1"], &[busybox()]);
    let container = docker.create("web", &image, &["/bin/busybox", "md5sum", "/srv/sparse"]);
    container.put("srv/sparse", "start");
    let file = fs::File::options().write(true).open(container.changes.join("srv/sparse")).unwrap();
    file.write_all_at(b"middle", 20 << 20).unwrap();
    file.set_len(64 << 20).unwrap();
    let sum = Command::new("/bin/busybox")
        .arg("md5sum")
        .arg(container.changes.join("srv/sparse"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    for driver in Home::new().drivers() {
        let home = Home::new();
        let run = |arguments: &[&str]| home.ok(&[&["--storage-driver", &driver], arguments].concat());
        run(&["storage", "adopt", docker.place()]);
        assert_eq!(run(&["start", "-a", "web"]).split(' ').next(), sum.split(' ').next(), "{driver}");
        let used = walk_blocks(home.root());
        assert!(used < 16 << 20, "{driver}: {used} bytes for a file that is all holes");
    }
}

fn walk_blocks(dir: &std::path::Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let stat = fs::symlink_metadata(&path).unwrap();
            stat.blocks() * 512 + if stat.is_dir() { walk_blocks(&path) } else { 0 }
        })
        .sum()
}
