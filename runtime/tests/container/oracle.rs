//! The same bundle under runc and under this runtime: whatever a process can see of itself must agree.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use mica_runtime::defaults::{MASKED_PATHS, READONLY_PATHS};

use crate::bed::{Bed, has};
use crate::cases;

cases![
    runc_gives_the_same_status,
    runc_gives_the_same_limits,
    runc_gives_the_same_namespaces,
    runc_gives_the_same_sysctls,
    runc_gives_the_same_mounts,
    runc_gives_the_same_masked_and_readonly_paths,
    runc_gives_the_same_files_environment_and_directory,
    runc_gives_the_same_devices,
    runc_gives_the_same_control_groups,
];

/// What the script of `bed` prints under both; `None` where there is no runc.
fn both(mut bed: Bed, test: &str) -> Option<(String, String)> {
    if !has("runc") {
        eprintln!("skip: {test}: no runc on this host to compare with");
        return None;
    }
    let ran = bed.run();
    assert_eq!(ran.code, 0, "{}", ran.output);
    Some((ran.output, under_runc(&bed)))
}

fn under_runc(bed: &Bed) -> String {
    let mut spec = bed.spec.clone();
    let group = format!("/{}-runc", bed.id);
    spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(group.clone().into()));
    let bundle = bed.path("bundle");
    fs::create_dir(&bundle).unwrap();
    spec.save(bundle.join("config.json")).unwrap();
    let output = bed.path("runc");
    let file = || File::options().create(true).append(true).open(&output).unwrap();
    let status = Command::new("runc")
        .arg("--root")
        .arg(bed.path("state"))
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(format!("{}-runc", bed.id))
        .stdin(Stdio::null())
        .stdout(file())
        .stderr(file())
        .status()
        .unwrap();
    let text = fs::read_to_string(&output).unwrap();
    let removed = mica_runtime::remove_cgroup(group.as_ref());
    assert!(status.success(), "{text}");
    removed.unwrap();
    text
}

fn assert_same(bed: Bed, test: &str, normalise: impl Fn(&str) -> String) {
    let Some((ours, theirs)) = both(bed, test) else { return };
    assert_eq!(normalise(&ours), normalise(&theirs), "left: this runtime, right: runc");
}

fn unchanged(text: &str) -> String {
    text.to_owned()
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn without_lines(text: &str, word: &str) -> String {
    text.lines().filter(|line| !line.contains(word)).collect::<Vec<_>>().join("\n")
}

fn runc_gives_the_same_status() {
    const FIELDS: &str = "grep -E \
        '^(Umask|Uid|Gid|Groups|NSpid|Cap...|NoNewPrivs|Seccomp|SigBlk|Speculation.*):' /proc/self/status";
    assert_same(Bed::new(FIELDS), "runc_gives_the_same_status", unchanged);
    let mut other = Bed::new(FIELDS);
    let process = other.process();
    process.set_no_new_privileges(Some(true));
    let mut user = process.user().clone();
    user.set_uid(1000).set_gid(1000).set_additional_gids(Some(vec![10, 20]));
    process.set_user(user);
    assert_same(other, "runc_gives_the_same_status", unchanged);
}

fn runc_gives_the_same_limits() {
    let mut bed = Bed::new("cat /proc/self/limits; cat /proc/self/oom_score_adj");
    let limits = serde_json::json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    bed.process().set_rlimits(Some(serde_json::from_value(limits).unwrap()));
    bed.process().set_oom_score_adj(Some(500));
    assert_same(bed, "runc_gives_the_same_limits", unchanged);
}

fn runc_gives_the_same_namespaces() {
    let bed = Bed::new("for ns in /proc/self/ns/*; do echo $ns $(readlink $ns); done");
    assert_same(bed, "runc_gives_the_same_namespaces", |text| {
        // Either one's own, of whatever number, or that of the host.
        let whose = |line: &str| {
            let (path, link) = line.split_once(' ').unwrap();
            let host = fs::read_link(path).unwrap();
            format!("{path} {}", if host.to_str() == Some(link) { "host" } else { "own" })
        };
        text.lines().map(whose).collect::<Vec<_>>().join("\n")
    });
}

fn runc_gives_the_same_sysctls() {
    let mut bed = Bed::new(
        "cd /proc/sys; grep -rs '' net fs/mqueue kernel/shm* kernel/sem kernel/msg* kernel/hostname; true",
    );
    bed.spec.set_hostname(Some("box".into()));
    bed.linux().sysctl_mut().as_mut().unwrap().insert("kernel.msgmax".into(), "4096".into());
    assert_same(bed, "runc_gives_the_same_sysctls", sorted);
}

fn runc_gives_the_same_masked_and_readonly_paths() {
    let paths = [&MASKED_PATHS[..], &READONLY_PATHS].concat().join(" ");
    let bed = Bed::new(&format!(
        "exec 2>&1; for p in {paths}; do
            stat -c '%n %F %A %u %g' $p || continue
            if [ -d $p ]; then ls -A $p; touch $p/x; else wc -c < $p; (: >> $p); fi
        done; true"
    ));
    assert_same(bed, "runc_gives_the_same_masked_and_readonly_paths", unchanged);
}

/// Numbers of mounts and anonymous devices differ from run to run, and so does the directory of the root.
fn without_numbers(mountinfo: &str) -> String {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let rest = fields[3..].join(" ");
        let root = if fields[4] == "/" { "ROOT" } else { fields[3] };
        format!("{root} {}", rest.split_once(' ').unwrap().1)
    };
    mountinfo.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn runc_gives_the_same_mounts() {
    let bed = Bed::new("cat /proc/self/mountinfo");
    let id = bed.id.clone();
    assert_same(bed, "runc_gives_the_same_mounts", |text| {
        let text = without_numbers(&text.replace(&format!("{id}-runc"), &id));
        // Two differences are meant: the directory of the hierarchies is read-only, as the bundle says, and
        // has the unified one of a hybrid host too.
        let text = text.replace("/sys/fs/cgroup rw,", "/sys/fs/cgroup ro,");
        sorted(&without_lines(&text, "/sys/fs/cgroup/unified"))
    });
}

fn runc_gives_the_same_files_environment_and_directory() {
    let mut bed = Bed::new(
        "ls /proc/self/fd | tr '\\n' ' '; env; pwd; cat /proc/sys/kernel/hostname; \
         readlink /proc/self/ns/user; readlink /proc/self/cwd",
    );
    bed.process().set_cwd("/made/here".into());
    bed.process().set_env(Some(vec!["A=1".into(), "PATH=/bin".into(), "A=2".into()]));
    bed.spec.set_hostname(Some("box".into()));
    assert_same(bed, "runc_gives_the_same_files_environment_and_directory", sorted);
}

fn runc_gives_the_same_devices() {
    let bed = Bed::new("cd /dev; stat -c '%A %u %g %t:%T %N' * .");
    assert_same(bed, "runc_gives_the_same_devices", sorted);
}

fn runc_gives_the_same_control_groups() {
    let bed = Bed::new("cat /proc/self/cgroup; cat /sys/fs/cgroup/devices/devices.list | sort");
    let id = bed.id.clone();
    assert_same(bed, "runc_gives_the_same_control_groups", |text| {
        // runc let every container use /dev/net/tun until 1.2.
        sorted(&without_lines(&text.replace(&format!("{id}-runc"), &id), "c 10:200 rwm"))
    });
}
