//! Further processes in a container.

use std::fs;

use crate::bed::{Bed, Watched, until};
use crate::cases;
use crate::create::children;

cases![
    a_joined_process_is_confined_as_the_first_one_is,
    a_joined_process_is_in_every_namespace_and_group_of_the_first,
    a_failed_exec_leaves_no_zombie_and_lets_the_container_end,
    a_joined_process_reports_its_own_status,
    a_joined_process_may_be_another_user_elsewhere,
    a_working_directory_that_is_missing_is_not_made_for_a_joined_process,
    the_container_ends_with_its_first_process_and_all_others,
    nothing_joins_a_container_that_has_ended,
    nothing_joins_a_container_before_its_start,
    orphans_are_adopted_by_the_first_process,
];

const CONFINEMENT: &str = "
    grep -E '^(Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Groups|Uid|Gid|Umask|Sig...):' /proc/self/status;
    cat /proc/self/limits; cat /proc/self/oom_score_adj; env | sort; ls /proc/self/fd | wc -l; cat /proc/self/cgroup";

fn a_joined_process_is_confined_as_the_first_one_is() {
    for no_new_privileges in [false, true] {
        let mut bed = Bed::new(&format!("({CONFINEMENT}); sleep 1000"));
        bed.process().set_no_new_privileges(Some(no_new_privileges));
        let limits = serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        bed.process().set_rlimits(Some(serde_json::from_value(limits).unwrap()));
        bed.process().set_oom_score_adj(Some(300));
        bed.up();
        let joined = bed.exec(&format!("({CONFINEMENT}); true"));
        let first = settled(&bed);
        assert_eq!(joined.output, first);
        assert!(first.contains("Seccomp:\t2"), "{first}");
        assert!(first.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges))), "{first}");
    }
}

/// The output, when its last line (of the unified hierarchy) is there.
fn settled(bed: &Bed) -> String {
    until("the first process has printed all", || {
        let output = bed.output();
        output.lines().any(|line| line.starts_with("0::")) || output.contains("1:name=")
    });
    bed.output()
}

fn a_joined_process_is_in_every_namespace_and_group_of_the_first() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    let process = bed.joining(&["sleep", "1000"]);
    let joined = bed.supervisor.exec(&process, &bed.path("exec")).unwrap();
    for namespace in ["mnt", "uts", "ipc", "net", "pid", "cgroup", "user"] {
        let of = |pid| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_eq!(of(pid), of(joined.pid), "{namespace}");
    }
    let groups = |pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(groups(pid), groups(joined.pid));
    assert_eq!(bed.supervisor.processes(), [pid, joined.pid]);
    assert_eq!(fs::read_link(format!("/proc/{}/root", joined.pid)).unwrap().to_str(), Some("/"));
}

fn a_failed_exec_leaves_no_zombie_and_lets_the_container_end() {
    let mut bed = Bed::new("read line; exit 5");
    bed.process().set_args(Some(vec!["sleep".into(), "1000".into()]));
    let pid = bed.up();
    fs::write(bed.root().join("etc/text"), "text").unwrap();
    for (command, status) in [("nosuch", 127), ("/etc/text", 126), ("/no/such", 127)] {
        let process = bed.joining(&[command]);
        let failure = bed.supervisor.exec(&process, &bed.path("exec")).unwrap_err();
        assert_eq!(failure.status, status, "{}", failure.text);
    }
    assert_eq!(children(bed.supervisor.pid()), 1);
    assert_eq!(bed.supervisor.processes(), [pid]);
    bed.supervisor.signal(libc::SIGKILL).unwrap();
    assert_eq!(bed.supervisor.wait(pid), 137);
    bed.supervisor.delete().unwrap();
}

fn a_joined_process_reports_its_own_status() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.up();
    assert_eq!(bed.exec("exit 9").code, 9);
    assert_eq!(bed.exec("kill -15 $$; sleep 1").code, 128 + 15);
}

fn a_joined_process_may_be_another_user_elsewhere() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.up();
    let mut process = bed.joining(&["sh", "-c", "id -u; id -G; pwd; echo $X; grep CapEff /proc/self/status"]);
    let mut user = process.user().clone();
    user.set_uid(5).set_gid(6).set_additional_gids(Some(vec![7]));
    process.set_user(user).set_cwd("/tmp".into()).set_env(Some(vec!["PATH=/bin".into(), "X=y".into()]));
    assert_eq!(bed.exec_process(&process).output, "5\n6 7\n/tmp\ny\nCapEff:\t0000000000000000\n");
}

fn a_working_directory_that_is_missing_is_not_made_for_a_joined_process() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.up();
    let mut process = bed.joining(&["true"]);
    process.set_cwd("/no/such".into());
    let failure = bed.supervisor.exec(&process, &bed.path("exec")).unwrap_err();
    assert!(failure.text.starts_with("entering the working directory /no/such: "), "{}", failure.text);
    assert!(!bed.root().join("no").exists());
}

fn the_container_ends_with_its_first_process_and_all_others() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    let process = bed.joining(&["sleep", "1000"]);
    bed.supervisor.exec(&process, &bed.path("exec")).unwrap();
    bed.supervisor.signal(libc::SIGKILL).unwrap();
    // Reaps the other one on the way: the first could not end before.
    assert_eq!(bed.supervisor.wait(pid), 137);
    assert_eq!(children(bed.supervisor.pid()), 0);
}

fn nothing_joins_a_container_that_has_ended() {
    let mut bed = Bed::with_command(&["true"]);
    let pid = bed.up();
    let process = bed.joining(&["true"]);
    Watched::new(pid).ends();
    let failure = bed.supervisor.exec(&process, &bed.path("exec")).unwrap_err();
    assert_eq!(failure.text, "the container is not running");
    bed.supervisor.wait(pid);
    let failure = bed.supervisor.exec(&process, &bed.path("exec")).unwrap_err();
    assert_eq!(failure.text, "the container is not running");
}

fn nothing_joins_a_container_before_its_start() {
    let mut bed = Bed::with_command(&["true"]);
    bed.create().unwrap();
    let process = bed.joining(&["true"]);
    let failure = bed.supervisor.exec(&process, &bed.path("exec")).unwrap_err();
    assert_eq!(failure.text, "the container is not started yet");
}

fn orphans_are_adopted_by_the_first_process() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.up();
    let ran = bed.exec("(sleep 1000 & echo $!)");
    let orphan = ran.output.trim();
    assert_eq!(bed.exec(&format!("cut -d' ' -f4 /proc/{orphan}/stat")).output, "1\n");
    let both: Vec<Watched> = bed.supervisor.processes().into_iter().map(Watched::new).collect();
    assert_eq!(both.len(), 2);
    bed.supervisor.delete().unwrap();
    both.iter().for_each(Watched::ends);
    assert_eq!(children(bed.supervisor.pid()), 0);
}
