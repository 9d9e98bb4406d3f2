//! From a bundle to the end of its first process.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::bed::Bed;
use crate::cases;

cases![
    the_command_is_pid_1_and_its_status_is_reported,
    a_signal_that_ends_the_command_is_reported,
    a_command_that_is_not_found_is_127_and_leaves_nothing,
    a_command_that_cannot_be_executed_is_126,
    a_program_that_the_kernel_refuses_is_found_out_at_start,
    an_unreadable_interpreter_does_not_hide_a_later_program_of_path,
    the_command_waits_for_start,
    a_container_cannot_be_started_twice,
    a_missing_working_directory_is_made,
    a_relative_command_is_found_from_the_working_directory,
    a_working_directory_closed_to_its_user_can_be_started_in,
    a_limit_of_three_files_is_no_obstacle,
    a_working_directory_that_is_a_file_is_an_error,
    home_comes_from_the_passwd_file_of_the_container,
    a_passwd_that_is_a_fifo_stops_nobody,
    the_user_can_reopen_its_output,
    limits_beyond_the_hosts_are_cut_with_a_note,
    signals_start_as_they_are_by_default,
    the_parents_files_and_keys_are_closed_to_the_command,
    no_descriptor_stays_in_the_supervisor,
    a_failed_set_up_names_the_step_and_leaves_no_group,
    what_is_not_supported_is_refused_by_name,
    a_foreign_sysctl_is_refused,
];

fn the_command_is_pid_1_and_its_status_is_reported() {
    let ran = Bed::new("echo $$; exit 7").run();
    assert_eq!((ran.output.as_str(), ran.code), ("1\n", 7));
}

fn a_signal_that_ends_the_command_is_reported() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    bed.supervisor.signal(libc::SIGKILL).unwrap();
    assert_eq!(bed.supervisor.wait(pid), 128 + 9);
    assert_eq!(bed.supervisor.signal(libc::SIGKILL).unwrap_err().text, "the container is not running");
}

fn a_command_that_is_not_found_is_127_and_leaves_nothing() {
    for command in ["nosuch", "/no/such"] {
        let mut bed = Bed::with_command(&[command]);
        let failure = bed.create().unwrap_err();
        assert_eq!(failure.status, 127, "{}", failure.text);
        assert!(failure.text.contains(command), "{}", failure.text);
        assert_eq!(bed.cgroups(), Vec::<std::path::PathBuf>::new());
        assert_eq!(children(bed.supervisor.pid()), 0);
    }
}

fn a_command_that_cannot_be_executed_is_126() {
    for (command, reason) in [("/etc", "is a directory"), ("/etc/text", "permission denied")] {
        let mut bed = Bed::with_command(&[command]);
        fs::write(bed.root().join("etc/text"), "text").unwrap();
        let failure = bed.create().unwrap_err();
        assert_eq!(failure.status, 126);
        assert_eq!(failure.text, format!("exec: {command:?}: {reason}"));
    }
}

fn a_program_that_the_kernel_refuses_is_found_out_at_start() {
    for (text, status) in [("not a program", 126), ("#!/no/such/shell\n", 127)] {
        let mut bed = Bed::with_command(&["/etc/program"]);
        program(&bed, "etc/program", text);
        bed.create().unwrap();
        let failure = bed.supervisor.start().unwrap_err();
        assert_eq!(failure.status, status, "{}", failure.text);
        assert_eq!(children(bed.supervisor.pid()), 0);
        bed.supervisor.delete().unwrap();
    }
}

fn an_unreadable_interpreter_does_not_hide_a_later_program_of_path() {
    let mut bed = Bed::with_command(&["greet"]);
    bed.process().set_env(Some(vec!["PATH=/first:/bin".into()]));
    fs::create_dir(bed.root().join("first")).unwrap();
    program(&bed, "first/greet", "#!/no/such/shell\n");
    program(&bed, "bin/greet", "#!/bin/sh\necho hello\n");
    assert_eq!(bed.run().output, "hello\n");
}

fn the_command_waits_for_start() {
    let mut bed = Bed::new("echo ran");
    let made = bed.create().unwrap();
    assert_ne!(
        fs::read_link(format!("/proc/{}/ns/net", made.pid)).unwrap(),
        fs::read_link("/proc/self/ns/net").unwrap()
    );
    assert_eq!(bed.output(), "");
    bed.supervisor.start().unwrap();
    assert_eq!(bed.supervisor.wait(made.pid), 0);
    assert_eq!(bed.output(), "ran\n");
}

fn a_container_cannot_be_started_twice() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.up();
    assert_eq!(bed.supervisor.start().unwrap_err().text, "the container was started already");
}

fn a_missing_working_directory_is_made() {
    let mut bed = Bed::new("pwd; stat -c %a .");
    bed.process().set_cwd("/a/b".into());
    assert_eq!(bed.run().output, "/a/b\n755\n");
}

fn a_relative_command_is_found_from_the_working_directory() {
    let mut bed = Bed::with_command(&["./greet"]);
    bed.process().set_cwd("/app".into());
    fs::create_dir(bed.root().join("app")).unwrap();
    program(&bed, "app/greet", "#!/bin/sh\necho hello\n");
    assert_eq!(bed.run().output, "hello\n");
}

fn a_working_directory_closed_to_its_user_can_be_started_in() {
    let mut bed = Bed::new("echo here");
    let mut user = bed.process().user().clone();
    user.set_uid(1000);
    bed.process().set_user(user).set_cwd("/closed".into());
    fs::create_dir(bed.root().join("closed")).unwrap();
    fs::set_permissions(bed.root().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bed.run().output, "here\n");
}

fn a_limit_of_three_files_is_no_obstacle() {
    let mut bed = Bed::with_command(&["echo", "ran"]);
    let limits = serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 3}]);
    bed.process().set_rlimits(Some(serde_json::from_value(limits).unwrap()));
    assert_eq!(bed.run().output, "ran\n");
}

fn a_working_directory_that_is_a_file_is_an_error() {
    let mut bed = Bed::new("pwd");
    bed.process().set_cwd("/bin/busybox".into());
    let failure = bed.create().unwrap_err();
    assert!(failure.text.contains("/bin/busybox"), "{}", failure.text);
    assert_eq!(failure.status, 125);
}

fn home_comes_from_the_passwd_file_of_the_container() {
    let mut bed = Bed::new("echo $HOME");
    fs::write(bed.root().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nann:x:7:7::/home/ann:/bin/sh\n")
        .unwrap();
    let user = bed.process().user().clone();
    bed.process().set_user({
        let mut user = user;
        user.set_uid(7);
        user
    });
    assert_eq!(bed.run().output, "/home/ann\n");
}

fn a_passwd_that_is_a_fifo_stops_nobody() {
    let mut bed = Bed::new("echo $HOME");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bed.root().join("etc/passwd"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(bed.run().output, "/\n");
}

fn the_user_can_reopen_its_output() {
    let mut bed =
        Bed::new("id -u; id -g; id -G; umask; echo again >>/dev/stdout; test -w /bin || echo confined");
    let mut user = bed.process().user().clone();
    user.set_uid(1000).set_gid(1001).set_additional_gids(Some(vec![7, 8])).set_umask(Some(0o27));
    bed.process().set_user(user);
    assert_eq!(bed.run().output, "1000\n1001\n1001 7 8\n0027\nagain\nconfined\n");
}

fn limits_beyond_the_hosts_are_cut_with_a_note() {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap();
    let mut bed = Bed::new("ulimit -Hn; ulimit -Sn");
    let limits = serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 17, "hard": hard + 1}]);
    bed.process().set_rlimits(Some(serde_json::from_value(limits).unwrap()));
    let made = bed.create().unwrap();
    bed.supervisor.start().unwrap();
    bed.supervisor.wait(made.pid);
    if may_raise_limits() {
        assert_eq!(bed.output(), format!("{}\n17\n", hard + 1));
        return;
    }
    assert_eq!(bed.output(), format!("{hard}\n17\n"));
    assert_eq!(made.notes.len(), 1);
    assert!(made.notes[0].contains("CAP_SYS_RESOURCE"), "{:?}", made.notes);
}

fn signals_start_as_they_are_by_default() {
    let ran = Bed::with_command(&["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]).run();
    assert_eq!(
        ran.output,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n"
    );
}

fn the_parents_files_and_keys_are_closed_to_the_command() {
    // 3 is the directory that ls reads.
    let ran = Bed::with_command(&["ls", "/proc/self/fd"]).run();
    assert_eq!(ran.output, "0\n1\n2\n3\n");
}

fn no_descriptor_stays_in_the_supervisor() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let mut cycle = || {
        bed.up();
        assert_eq!(bed.exec("true").code, 0);
        let process = bed.joining(&["nosuch"]);
        bed.supervisor.exec(&process, &bed.path("exec")).unwrap_err();
        bed.supervisor.delete().unwrap();
        let good = bed.process().cwd().clone();
        bed.process().set_cwd("/bin/busybox/x".into());
        bed.create().unwrap_err();
        bed.process().set_cwd(good);
        fs::read_dir(format!("/proc/{}/fd", bed.supervisor.pid())).unwrap().count()
    };
    assert_eq!(cycle(), cycle());
}

fn a_failed_set_up_names_the_step_and_leaves_no_group() {
    let mut bed = Bed::new("true");
    let mount =
        serde_json::json!({"destination": "/data", "source": "/no/such/source", "options": ["rbind"]});
    bed.spec.mounts_mut().as_mut().unwrap().push(serde_json::from_value(mount).unwrap());
    let failure = bed.create().unwrap_err();
    assert_eq!(failure.text, "mounting /data from /no/such/source: No such file or directory (os error 2)");
    assert_eq!(failure.status, 125);
    assert!(bed.cgroups().is_empty());
    assert_eq!(children(bed.supervisor.pid()), 0);
}

fn what_is_not_supported_is_refused_by_name() {
    let mut bed = Bed::new("true");
    bed.process().set_apparmor_profile(Some("docker-default".into()));
    let failure = bed.create().unwrap_err();
    assert!(failure.text.contains("AppArmor") && failure.text.contains("--runtime runc"), "{}", failure.text);
}

fn a_foreign_sysctl_is_refused() {
    let mut bed = Bed::new("true");
    bed.linux().set_sysctl(Some([("kernel.panic".to_owned(), "1".to_owned())].into()));
    assert!(bed.create().unwrap_err().text.contains("would change the host"));
    bed.linux()
        .set_sysctl(Some([("net.ipv4.ip_forward/../../../kernel/panic".to_owned(), "1".to_owned())].into()));
    assert!(bed.create().unwrap_err().text.starts_with("setting sysctl"));
}

fn program(bed: &Bed, path: &str, text: &str) {
    let path = bed.root().join(path);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn may_raise_limits() -> bool {
    let own = rustix::thread::capabilities(None).unwrap();
    own.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE)
}

/// Children of a process, zombies counted.
pub(crate) fn children(pid: u32) -> usize {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().split_whitespace().count()
}
