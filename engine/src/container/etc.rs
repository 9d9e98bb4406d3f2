//! The files of `/etc` that belong to a container and not to its image: they are bind mounted, and never committed.
//!
//! They are written anew at each start, and again, in place, when the container's networks change. A container that shares
//! another one's network namespace shares its files, too.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mica_names::{
    ExtraHost, HostName, HostTarget, OwnNames, Resolv, Wishes, host_lines, hostname_file, hosts_file,
};

use super::{Container, NetworkMode, Record, Settings};
use crate::{Error, Result, root};

/// The files, by their names in the container's directory and in `/etc`.
pub(crate) const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// The host's own ones.
const HOSTS: &str = "/etc/hosts";
pub(crate) const RESOLV: &str = "/etc/resolv.conf";

/// The longest file of the host that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a container's settings say of names.
#[derive(Debug)]
pub(crate) struct Wished {
    hostname: HostName,
    extra: Vec<ExtraHost>,
    /// How it wants names to be looked up.
    pub(crate) resolver: Wishes,
}

/// What of a container's files depends on the networks that it is connected to.
#[derive(Debug, Default)]
pub(crate) struct Around {
    /// Its addresses, in the order in which they are to be found.
    pub(crate) addresses: Vec<IpAddr>,
    /// Those at which it reaches the host.
    pub(crate) host: Vec<IpAddr>,
    /// It has a name server of its own in its namespace.
    pub(crate) responder: bool,
}

/// The files of a container, as they were written last.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    texts: [String; 3],
}

/// Refuses settings for which no files can be written.
pub(crate) fn check(settings: &Settings, hostname: &str) -> Result<()> {
    let wished = Wished::of(settings, hostname)?;
    hostname_file(&wished.hostname)?;
    if settings.networking.mode == NetworkMode::None {
        wished.hosts(&Around::default())?;
    }
    Ok(())
}

/// What the host's `resolv.conf` says now. A host that has none has no name service to offer either.
pub(crate) fn host_resolv() -> Result<Resolv> {
    Ok(Resolv::parse(&host_file(RESOLV)?))
}

impl Files {
    /// Writes the files for a container that is about to start.
    pub(crate) fn write(container: &Container, around: &Around) -> Result<Self> {
        let record = container.record();
        let mut wished = Wished::of(&record.settings, &record.hostname())?;
        let mode = &record.settings.networking.mode;
        if around.addresses.is_empty() && *mode != NetworkMode::Host {
            wished.forget_host();
        }
        let texts = wished.texts(mode, around)?;
        let dir = container.dir().to_owned();
        for (name, text) in NAMES.iter().zip(&texts) {
            let path = dir.join(name);
            put(&path, text).map_err(Error::io(|| format!("write '{}'", path.display())))?;
        }
        Ok(Self { dir, texts })
    }

    /// Brings them up to date while the container runs. One that somebody in the container changed, so that it is not what
    /// was written here, stays as it is.
    pub(crate) fn rewrite(&mut self, record: &Record, around: &Around) -> Result<()> {
        let mut wished = Wished::of(&record.settings, &record.hostname())?;
        if around.host.is_empty() {
            wished.forget_host();
        }
        let texts = wished.texts(&record.settings.networking.mode, around)?;
        for ((name, was), text) in NAMES.iter().zip(&mut self.texts).zip(texts) {
            let path = self.dir.join(name);
            if replace(&path, was, &text).map_err(Error::io(|| format!("write '{}'", path.display())))? {
                *was = text;
            }
        }
        Ok(())
    }
}

impl Wished {
    pub(crate) fn of(settings: &Settings, hostname: &str) -> Result<Self> {
        let networking = &settings.networking;
        let (servers, search) = (&networking.servers, &networking.search);
        Ok(Self {
            hostname: hostname.parse()?,
            extra: networking.extra_hosts.iter().map(|host| host.parse()).collect::<Result<_, _>>()?,
            resolver: Wishes::parse(servers, search, &networking.resolver_options)?,
        })
    }

    /// Leaves out the names of a host that cannot be reached: the networks that led there were taken from the container.
    fn forget_host(&mut self) {
        self.extra.retain(|extra| extra.target != HostTarget::Gateway);
    }

    /// The files, in the order of [`NAMES`].
    fn texts(&self, mode: &NetworkMode, around: &Around) -> Result<[String; 3]> {
        let hostname = hostname_file(&self.hostname)?;
        if *mode == NetworkMode::Host {
            return Ok([self.hosts_on_host()?, hostname, self.resolv_on_host()?]);
        }
        Ok([self.hosts(around)?, hostname, self.resolv(around)?])
    }

    fn hosts(&self, around: &Around) -> Result<String> {
        let (hostname, aliases) = (self.hostname.clone(), Vec::new());
        let own = OwnNames { hostname, aliases, addresses: around.addresses.clone() };
        Ok(hosts_file(&own, &self.extra, &around.host)?)
    }

    /// The host's own file, with what the user added before it.
    fn hosts_on_host(&self) -> Result<String> {
        Ok(host_lines(&self.extra, &[Ipv4Addr::LOCALHOST.into()])? + &host_file(HOSTS)?)
    }

    fn resolv(&self, around: &Around) -> Result<String> {
        let host = host_resolv()?;
        if around.responder {
            return Ok(host.beside_responder(&self.resolver));
        }
        // Without a network nobody can be asked.
        let lone = || Resolv { servers: Vec::new(), ..host.with(&self.resolver) }.file();
        Ok(host.direct(&self.resolver).unwrap_or_else(lone))
    }

    fn resolv_on_host(&self) -> Result<String> {
        if self.resolver == Wishes::default() {
            return host_file(RESOLV);
        }
        Ok(host_resolv()?.with(&self.resolver).file())
    }
}

fn host_file(path: &str) -> Result<String> {
    let text = root::read_optional(Path::new(path), MAX_FILE)?;
    Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default())
}

/// Writes a file that everyone may read, whatever the umask is.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let file = File::create(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all_at(text.as_bytes(), 0)
}

/// Replaces the content of a file that is mounted elsewhere, unless it is not `was` any more; whether it did. The text is
/// written at once, so nobody reads an empty file.
fn replace(path: &Path, was: &str, text: &str) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut found = Vec::new();
    // It may have become any length.
    (&file).take(was.len() as u64 + 1).read_to_end(&mut found)?;
    if found != was.as_bytes() {
        return Ok(false);
    }
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::container::Networking;

    fn settings(mode: NetworkMode, extra_hosts: &[&str]) -> Settings {
        let extra_hosts = extra_hosts.iter().map(ToString::to_string).collect();
        Settings {
            networking: Networking { mode, extra_hosts, ..Networking::default() },
            ..Settings::default()
        }
    }

    fn texts(settings: &Settings, around: &Around) -> [String; 3] {
        let wished = Wished::of(settings, "web.example.org").unwrap();
        wished.texts(&settings.networking.mode, around).unwrap()
    }

    #[test]
    fn a_file_is_brought_up_to_date_where_it_is_and_keeps_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        put(&path, "a long text\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert!(replace(&path, "a long text\n", "short\n").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "short\n");
        assert!(replace(&path, "short\n", "a longer text\n").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a longer text\n");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn a_file_that_somebody_in_the_container_changed_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        for changed in ["", "ours", "ours\nand more\n", "ourz\n"] {
            put(&path, changed).unwrap();
            assert!(!replace(&path, "ours\n", "new\n").unwrap(), "{changed:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), changed);
        }
    }

    #[test]
    fn everyone_in_the_container_may_read_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        fs::write(&path, "what the last run left, which is longer\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        put(&path, "new\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }

    #[test]
    fn a_container_in_the_hosts_network_knows_what_the_host_knows() {
        let [hosts, hostname, resolv] =
            texts(&settings(NetworkMode::Host, &["db:10.0.0.9", "here:host-gateway"]), &Around::default());
        let host = fs::read_to_string(HOSTS).unwrap_or_default();
        assert_eq!(hosts, format!("10.0.0.9\tdb\n127.0.0.1\there\n{host}"));
        assert_eq!(hostname, "web.example.org\n");
        assert_eq!(resolv, fs::read_to_string(RESOLV).unwrap_or_default());
        let mut asks = settings(NetworkMode::Host, &[]);
        asks.networking.servers = vec!["10.0.0.53".to_owned()];
        assert!(texts(&asks, &Around::default())[2].starts_with("nameserver 10.0.0.53\n"));
    }

    #[test]
    fn a_container_with_a_name_server_asks_nobody_else() {
        let mut connected = settings(NetworkMode::Connected, &["here:host-gateway"]);
        connected.networking.servers = vec!["10.0.0.53".to_owned()];
        connected.networking.search = vec!["example.org".to_owned()];
        let around = Around {
            addresses: vec!["172.30.0.2".parse().unwrap()],
            host: vec!["172.30.0.1".parse().unwrap()],
            responder: true,
        };
        let [hosts, _, resolv] = texts(&connected, &around);
        assert!(resolv.starts_with("nameserver 127.0.0.11\nsearch example.org\n"), "{resolv}");
        assert!(!resolv.contains("10.0.0.53"), "{resolv}");
        assert!(hosts.contains("\n172.30.0.1\there\n172.30.0.2\tweb.example.org web\n"), "{hosts}");
    }

    #[test]
    fn what_could_not_be_written_at_each_start_is_refused_when_a_container_is_made() {
        let refused =
            |settings: &Settings, hostname: &str| check(settings, hostname).unwrap_err().to_string();
        let plain = settings(NetworkMode::Connected, &[]);
        check(&plain, "web").unwrap();
        assert!(refused(&plain, "a b").contains("cannot be the name of a host"));
        assert!(refused(&plain, &format!("{}.b", "a".repeat(63))).contains("64 bytes"));
        assert!(refused(&settings(NetworkMode::Connected, &["db"]), "web").contains("has no address"));
        let lone = settings(NetworkMode::None, &["here:host-gateway"]);
        assert!(refused(&lone, "web").contains("no network of the container leads to the host"));
        check(&settings(NetworkMode::Connected, &["here:host-gateway"]), "web").unwrap();
    }
}
