//! Ways out of a container that others had to close.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use oci_spec::runtime::Process;

use crate::bed::Bed;
use crate::cases;

cases![
    a_command_that_is_the_supervisors_file_cannot_overwrite_it,
    a_joined_command_that_is_the_supervisors_file_cannot_overwrite_it,
    a_leaked_descriptor_is_no_working_directory,
    a_path_is_not_masked_with_a_device_of_the_images,
    the_supervisors_memory_is_closed_to_its_own_user,
    the_hosts_processes_cannot_be_named,
    release_agents_cannot_be_set,
    a_setting_of_the_kernel_is_not_written_to_a_file_of_the_images,
];

/// The command that makes a container execute the program of whoever makes it (CVE-2019-5736): this very
/// test, which then plays the attacker. Its libraries are there too, as an attacker's loader would be.
fn trap(bed: &mut Bed) -> Process {
    for dir in ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|dir| Path::new(dir).exists()) {
        let mount = serde_json::json!({"destination": dir, "source": dir, "options": ["rbind", "rro"]});
        bed.spec.mounts_mut().as_mut().unwrap().push(serde_json::from_value(mount).unwrap());
    }
    let mut process = bed.joining(&["/proc/self/exe"]);
    process.set_env(Some(vec!["MICA_TEST_TRAP=1".into()]));
    process
}

/// What the trapped program does. Truncation is asked of the mount before it is asked of the file, which is
/// busy while it is executed.
pub(crate) fn overwrite_self() {
    let opened = fs::File::options().write(true).truncate(true).open("/proc/self/exe");
    print!("{}", opened.unwrap_err().kind());
}

fn a_command_that_is_the_supervisors_file_cannot_overwrite_it() {
    let mut bed = Bed::new("");
    let process = trap(&mut bed);
    bed.spec.set_process(Some(process));
    assert_eq!(bed.run().output, "read-only filesystem or storage medium");
}

fn a_joined_command_that_is_the_supervisors_file_cannot_overwrite_it() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let process = trap(&mut bed);
    bed.up();
    assert_eq!(bed.exec_process(&process).output, "read-only filesystem or storage medium");
}

fn a_leaked_descriptor_is_no_working_directory() {
    // CVE-2024-21626.
    for number in 3..12 {
        let mut bed = Bed::new("ls; cat ../../../../../../etc/hostname");
        bed.process().set_cwd(format!("/proc/self/fd/{number}").into());
        let failure = bed.create().unwrap_err();
        assert!(failure.text.contains("working directory"), "{}", failure.text);
    }
}

fn a_path_is_not_masked_with_a_device_of_the_images() {
    // CVE-2025-31133: without a /dev of its own, a container has the image's.
    let mut bed = Bed::new("wc -c < /proc/keys; test -L /dev/null && echo trapped");
    bed.spec.mounts_mut().as_mut().unwrap().retain(|mount| !mount.destination().starts_with("/dev"));
    symlink("/proc/sysrq-trigger", bed.root().join("dev/null")).unwrap();
    let failure = bed.create().unwrap_err();
    assert!(failure.text.contains("null"), "{}", failure.text);
}

fn the_supervisors_memory_is_closed_to_its_own_user() {
    // CVE-2016-9962: what is not dumpable belongs to root and is open to CAP_SYS_PTRACE alone.
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let made = bed.create().unwrap();
    for pid in [i32::try_from(bed.supervisor.pid()).unwrap(), made.pid] {
        let script = format!("readlink /proc/{pid}/exe || echo closed");
        let mut host = std::process::Command::new("setpriv");
        host.args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace", "sh", "-c", &script]);
        assert_eq!(String::from_utf8_lossy(&host.output().unwrap().stdout), "closed\n");
    }
}

fn the_hosts_processes_cannot_be_named() {
    // Nothing but the shell itself, which starts no process for any of this.
    let mut bed = Bed::new("echo /proc/[0-9]*; kill -9 2 2>/dev/null; echo $?");
    assert_eq!(bed.run().output, "/proc/1\n1\n");
}

fn release_agents_cannot_be_set() {
    // CVE-2022-0492.
    let mut bed = Bed::new(
        "for f in /sys/fs/cgroup/*/; do mkdir $f/x && echo bad; echo 1 > $f/notify_on_release && echo bad; done; true",
    );
    assert!(!bed.run().output.contains("bad"));
}

fn a_setting_of_the_kernel_is_not_written_to_a_file_of_the_images() {
    // CVE-2025-52881: what was to go to /proc went where the image led it.
    let mut bed = Bed::new("true");
    let mounts = bed.spec.mounts_mut().as_mut().unwrap();
    mounts.retain(|mount| mount.destination() != Path::new("/proc"));
    let setting = bed.root().join("proc/sys/net/ipv4/ip_unprivileged_port_start");
    fs::create_dir_all(setting.parent().unwrap()).unwrap();
    fs::write(&setting, "the image's").unwrap();
    let failure = bed.create().unwrap_err();
    assert!(failure.text.starts_with("setting sysctl"), "{}", failure.text);
    assert_eq!(fs::read_to_string(&setting).unwrap(), "the image's");
}
