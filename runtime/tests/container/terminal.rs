//! Terminals.

use crate::bed::Bed;
use crate::cases;

cases![
    the_first_process_gets_a_terminal_of_the_container,
    a_joined_process_gets_a_terminal_of_the_container,
    a_terminal_of_another_file_system_is_refused,
];

const SHOW: &str = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo hello > /dev/tty";

fn the_first_process_gets_a_terminal_of_the_container() {
    let mut bed = Bed::new(&format!("{SHOW}; stat -c '%u %a' /dev/pts/0; echo console > /dev/console"));
    let mut user = bed.process().user().clone();
    user.set_uid(1000);
    bed.process()
        .set_user(user)
        .set_terminal(Some(true))
        .set_console_size(serde_json::from_str(r#"{"height": 50, "width": 132}"#).ok());
    let output = bed.run().output.replace("\r\n", "\n");
    assert_eq!(output, "/dev/pts/0\n50 132\nall\nhello\n1000 620\nconsole\n");
}

fn a_joined_process_gets_a_terminal_of_the_container() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.up();
    let mut process = bed.joining(&["sh", "-c", SHOW]);
    process
        .set_terminal(Some(true))
        .set_console_size(serde_json::from_str(r#"{"height": 5, "width": 9}"#).ok());
    let ran = bed.exec_process(&process);
    assert_eq!(ran.output.replace("\r\n", "\n"), "/dev/pts/0\n5 9\nall\nhello\n");
}

fn a_terminal_of_another_file_system_is_refused() {
    let mut bed = Bed::new("tty");
    bed.process().set_terminal(Some(true));
    let mounts = bed.spec.mounts_mut().as_mut().unwrap();
    mounts.retain(|mount| mount.destination() != std::path::Path::new("/dev/pts"));
    let device = serde_json::json!([{"path": "/dev/pts/ptmx", "type": "c", "major": 5, "minor": 2}]);
    bed.linux().set_devices(Some(serde_json::from_value(device).unwrap()));
    let failure = bed.create().unwrap_err();
    assert!(failure.text.contains("devpts"), "{}", failure.text);
}
