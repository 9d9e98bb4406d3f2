//! The files of `/etc` that belong to a container and not to its image: they are bind mounted, and never committed.

use std::fs;
use std::path::Path;

use super::NetworkMode;
use crate::{Error, Result};

/// The files, by their names in the container's directory and in `/etc`.
pub(super) const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Writes them into a directory.
pub(super) fn write(dir: &Path, hostname: &str, mode: &NetworkMode) -> Result<()> {
    let put = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(Error::io(|| format!("write '{}'", path.display())))
    };
    put("hostname", &format!("{hostname}\n"))?;
    put("hosts", &hosts(hostname, mode))?;
    // A host that has none has no name service to offer either.
    put("resolv.conf", &fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn hosts(hostname: &str, mode: &NetworkMode) -> String {
    if *mode == NetworkMode::Host
        && let Ok(text) = fs::read_to_string("/etc/hosts")
    {
        return text;
    }
    format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    )
}
