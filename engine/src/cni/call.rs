//! What a runtime asks for, as the environment says it.

use std::ffi::OsString;
use std::path::PathBuf;

use mica_core::network::InterfaceName;

use super::refusal::{Code, Refusal};
use super::version::Version;

/// The longest id of a container: with the interface's name it becomes the name of a file.
const MAX_ID: usize = 200;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Connect a container.
    Add { place: Place, namespace: PathBuf, arguments: String },
    /// Take its connection away.
    Del { place: Place, namespace: Option<PathBuf> },
    /// See whether it is connected as it should be.
    Check { place: Place, namespace: PathBuf },
    /// Take away all connections but those that the configuration names.
    Gc,
    /// Say whether containers can be connected.
    Status,
    /// Say which versions of the protocol are spoken.
    Version,
}

/// Which attachment of a network it is: there is one for each interface of each container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The id that the runtime gave the container.
    pub(super) container: String,
    /// The interface inside.
    pub(super) interface: InterfaceName,
}

impl Place {
    /// What it is recorded by. Ids hold no comma.
    pub(super) fn key(&self) -> String {
        format!("{},{}", self.container, self.interface)
    }
}

impl Call {
    pub(super) fn read(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Refusal> {
        let given = Given { variable };
        match given.text("CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add {
                place: given.place()?,
                namespace: given.text("CNI_NETNS")?.into(),
                arguments: given.optional("CNI_ARGS")?.unwrap_or_default(),
            }),
            "DEL" => Ok(Self::Del {
                place: given.place()?,
                namespace: given.optional("CNI_NETNS")?.map(PathBuf::from),
            }),
            "CHECK" => Ok(Self::Check { place: given.place()?, namespace: given.text("CNI_NETNS")?.into() }),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            other => {
                let other = other.escape_debug();
                let known = "ADD, DEL, CHECK, GC, STATUS and VERSION";
                Err(Refusal::variable("CNI_COMMAND", format!("'{other}' is unknown; there are {known}")))
            }
        }
    }

    /// Refuses what a version of the protocol has not got.
    pub(super) fn check_version(&self, version: Version) -> Result<(), Refusal> {
        let (verb, since) = match self {
            Self::Check { .. } => ("CHECK", Version::V0_4_0),
            Self::Gc => ("GC", Version::V1_1_0),
            Self::Status => ("STATUS", Version::V1_1_0),
            _ => return Ok(()),
        };
        if version >= since {
            return Ok(());
        }
        let text = format!("version {version} of the protocol has no {verb}; {since} has");
        Err(Refusal::new(Code::Version, text))
    }
}

struct Given<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Given<'_> {
    fn text(&self, name: &str) -> Result<String, Refusal> {
        let text = self.optional(name)?;
        text.ok_or_else(|| {
            Refusal::variable(name, "it is not set, and this is called by a container runtime")
        })
    }

    fn optional(&self, name: &str) -> Result<Option<String>, Refusal> {
        let value = (self.variable)(name).filter(|value| !value.is_empty());
        let text = value.map(OsString::into_string).transpose();
        text.map_err(|_| Refusal::variable(name, "it is not UTF-8"))
    }

    fn place(&self) -> Result<Place, Refusal> {
        let container = self.text("CNI_CONTAINERID")?;
        if !is_id(&container) {
            let why = format!(
                "'{}' is no id; one has letters, digits, '_', '.' and '-', begins with a letter or a digit, \
                 and has at most {MAX_ID} of them",
                container.escape_debug()
            );
            return Err(Refusal::variable("CNI_CONTAINERID", why));
        }
        let interface = self.text("CNI_IFNAME")?.parse();
        let interface = interface.map_err(|why| Refusal::variable("CNI_IFNAME", why))?;
        Ok(Place { container, interface })
    }
}

fn is_id(text: &str) -> bool {
    let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.len() <= MAX_ID
        && text.bytes().all(is_usable)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// The value of a key in `CNI_ARGS`, which is written `KEY=VALUE;KEY=VALUE`. Those that nobody asks for are ignored, as the
/// conventions of the protocol have it.
pub(super) fn argument<'a>(arguments: &'a str, key: &str) -> Option<&'a str> {
    let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, value)| *name == key && !value.is_empty()).map(|(_, value)| value).next()
}
