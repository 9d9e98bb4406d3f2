//! The contents of `/etc/hosts` and `/etc/hostname`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use mica_core::{Error, Result};

use crate::HostName;

/// The longest name that the kernel keeps for a machine (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;

/// Where a machine without a network is, as Debian has it.
const LONE: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// What every machine's file starts with.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n\
                        ::1\tlocalhost ip6-localhost ip6-loopback\n\
                        fe00::\tip6-localnet\n\
                        ff00::\tip6-mcastprefix\n\
                        ff02::1\tip6-allnodes\n\
                        ff02::2\tip6-allrouters\n";

/// A name that the user gave an address: `NAME:ADDRESS`, `NAME=ADDRESS` or `NAME:host-gateway`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: HostName,
    /// What it means.
    pub target: HostTarget,
}

/// What a name that the user added leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostTarget {
    /// This address.
    Address(IpAddr),
    /// The host, at whatever address the container reaches it: `host-gateway`.
    Gateway,
}

impl FromStr for ExtraHost {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let text = text.escape_debug();
            Error::Options(format!("host '{text}' {why}; write it as NAME:ADDRESS or NAME:host-gateway"))
        };
        let (name, address) = text.split_once(['=', ':']).ok_or_else(|| refuse("has no address"))?;
        let name = name.parse()?;
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let target = match bare {
            "host-gateway" => HostTarget::Gateway,
            _ => HostTarget::Address(bare.parse().map_err(|_| refuse("has an address that is none"))?),
        };
        Ok(Self { name, target })
    }
}

/// What a container itself is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNames {
    /// Its hostname.
    pub hostname: HostName,
    /// What else its networks call it.
    pub aliases: Vec<HostName>,
    /// Its addresses, in the order in which they are to be found.
    pub addresses: Vec<IpAddr>,
}

/// The content of `/etc/hosts`. What the user added comes before the container's own names, so it wins.
///
/// A container without an address finds itself on its loopback. `host` and errors are as for [`host_lines`].
pub fn hosts_file(own: &OwnNames, extra: &[ExtraHost], host: &[IpAddr]) -> Result<String> {
    let mut text = LOOPBACK.to_owned() + &host_lines(extra, host)?;
    let mut names = vec![own.hostname.as_str()];
    for name in own.hostname.short().into_iter().chain(own.aliases.iter().map(HostName::as_str)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let lone = [IpAddr::V4(LONE)];
    let addresses = if own.addresses.is_empty() { &lone[..] } else { &own.addresses };
    addresses.iter().for_each(|address| write_line(&mut text, *address, &names.join(" ")));
    Ok(text)
}

/// The lines of `/etc/hosts` for what the user added. `host` are the addresses at which the container reaches the host.
/// Fails with [`Error::Options`] where `host-gateway` is asked for and there are none.
pub fn host_lines(extra: &[ExtraHost], host: &[IpAddr]) -> Result<String> {
    let mut text = String::new();
    for ExtraHost { name, target } in extra {
        match target {
            HostTarget::Address(address) => write_line(&mut text, *address, name.as_str()),
            HostTarget::Gateway if host.is_empty() => return Err(no_gateway(name)),
            HostTarget::Gateway => {
                host.iter().for_each(|address| write_line(&mut text, *address, name.as_str()));
            }
        }
    }
    Ok(text)
}

fn write_line(text: &mut String, address: IpAddr, names: &str) {
    let _ = writeln!(text, "{address}\t{names}");
}

fn no_gateway(name: &HostName) -> Error {
    Error::Options(format!(
        "host '{name}' cannot be the host's gateway: no network of the container leads to the host; give an address"
    ))
}

/// The content of `/etc/hostname`. Fails with [`Error::Options`] for a name that the kernel does not take.
pub fn hostname_file(hostname: &HostName) -> Result<String> {
    if hostname.as_str().len() > MAX_HOSTNAME {
        return Err(Error::Options(format!(
            "hostname '{hostname}' is too long: the kernel takes {MAX_HOSTNAME} bytes at the most"
        )));
    }
    Ok(format!("{hostname}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(hostname: &str, aliases: &[&str], addresses: &[&str]) -> OwnNames {
        OwnNames {
            hostname: hostname.parse().unwrap(),
            aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    fn extra(texts: &[&str]) -> Vec<ExtraHost> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_container_finds_itself_by_each_of_its_names() {
        let own = own("web.example.org", &["www", "web"], &["172.30.0.2", "fd00::2"]);
        let text = hosts_file(&own, &[], &[]).unwrap();
        let told: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(told, ["172.30.0.2\tweb.example.org web www", "fd00::2\tweb.example.org web www"]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
    }

    #[test]
    fn a_container_without_a_network_finds_itself_too() {
        let text = hosts_file(&own("web", &[], &[]), &[], &[]).unwrap();
        assert!(text.ends_with("127.0.1.1\tweb\n"), "{text}");
    }

    #[test]
    fn a_host_is_added_before_the_containers_own_names_in_each_way_to_write_it() {
        let extra = extra(&["a:1.2.3.4", "b=::1", "c:[fd00::9]", "d:fd00::8"]);
        let text = hosts_file(&own("web", &[], &["172.30.0.2"]), &extra, &[]).unwrap();
        let told: Vec<_> = text.lines().skip(6).collect();
        assert_eq!(told, ["1.2.3.4\ta", "::1\tb", "fd00::9\tc", "fd00::8\td", "172.30.0.2\tweb"]);
    }

    #[test]
    fn host_gateway_is_the_host_in_every_family_that_reaches_it() {
        let extra = extra(&["host.docker.internal:host-gateway"]);
        let host = ["172.30.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let text = hosts_file(&own("web", &[], &[]), &extra, &host).unwrap();
        assert!(
            text.contains("\n172.30.0.1\thost.docker.internal\nfd00::1\thost.docker.internal\n"),
            "{text}"
        );
        let refused = hosts_file(&own("web", &[], &[]), &extra, &[]).unwrap_err().to_string();
        assert!(refused.contains("no network of the container leads to the host"), "{refused}");
    }

    #[test]
    fn an_added_host_that_is_none_is_refused_with_the_form_that_works() {
        for bad in ["a", "a:", "a:b", "a:1.2.3", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3.4\n5.6.7.8 b"] {
            assert!(bad.parse::<ExtraHost>().is_err(), "{bad:?}");
        }
        let text = "a:b".parse::<ExtraHost>().unwrap_err().to_string();
        assert_eq!(
            text,
            "host 'a:b' has an address that is none; write it as NAME:ADDRESS or NAME:host-gateway"
        );
    }

    #[test]
    fn a_hostname_that_the_kernel_does_not_take_is_refused() {
        assert_eq!(hostname_file(&"web".parse().unwrap()).unwrap(), "web\n");
        let long = format!("{}.b", "a".repeat(63));
        assert!(hostname_file(&long.parse().unwrap()).unwrap_err().to_string().contains("64 bytes"));
    }
}
