//! Named places at which a test can end the process as a crash would.
//!
//! Code that must survive a crash names the moments between its steps: `failpoint::hit("overlay2.create.made")?`.
//! With `MICA_FAILPOINT=overlay2.create.made` in the environment the process aborts there, with nothing flushed and
//! no destructor run; with `…=error` it gets an error instead. Without the variable a hit costs one load.

use std::io;
use std::sync::OnceLock;

/// The variable that names the point, alone or followed by `=error`.
pub const VARIABLE: &str = "MICA_FAILPOINT";

static CHOSEN: OnceLock<Option<String>> = OnceLock::new();

/// Does nothing, unless this point was chosen: then it aborts the process, or fails where an error was asked for.
pub fn hit(name: &str) -> io::Result<()> {
    let Some(chosen) = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()) else {
        return Ok(());
    };
    match chosen.split_once('=').unwrap_or((chosen, "abort")) {
        (point, "error") if point == name => Err(io::Error::other(format!("failpoint {name}"))),
        (point, _) if point == name => std::process::abort(),
        _ => Ok(()),
    }
}
