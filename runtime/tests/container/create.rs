//! From a bundle to the end of its first process.

use crate::bed::Bed;
use crate::cases;

cases![the_command_is_pid_1_and_its_status_is_reported];

fn the_command_is_pid_1_and_its_status_is_reported() {
    let ran = Bed::new("echo $$; exit 7").run();
    assert_eq!((ran.output.as_str(), ran.code), ("1\n", 7));
}
