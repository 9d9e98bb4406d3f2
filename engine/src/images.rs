//! The images of a root: configs on disk, found by name, id or the beginning of an id.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use mica_archive::Digest;
use mica_core::durable;

use crate::image::{self, Image};
use crate::root::{self, Root};
use crate::tags::Tags;
use crate::{Error, Reference, Result};

/// Where the config of an image is.
pub fn path(root: &Root, id: &Digest) -> PathBuf {
    root.images().join(id.hex())
}

/// The ids of all images.
pub fn ids(root: &Root) -> Result<Vec<Digest>> {
    let names = root::names(&root.images())?;
    Ok(names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
}

/// The image of this id. Fails with [`Error::Damaged`] when the file's content is not what its name says.
pub fn read(root: &Root, id: &Digest) -> Result<Option<Image>> {
    let path = path(root, id);
    let Some(blob) = root::read_optional(&path, image::MAX_CONFIG)? else {
        return Ok(None);
    };
    let found = Digest::of(&blob);
    if found != *id {
        return Err(Error::damaged(format!("image '{}'", path.display()), format!("its digest is {found}")));
    }
    Image::parse(blob).map(Some)
}

/// Writes an image's config to a new file, which is to be [placed](place).
pub fn stage(image: &Image, staged: &Path) -> Result<()> {
    File::create_new(staged)
        .and_then(|mut file| file.write_all(image.blob()).and_then(|()| file.sync_all()))
        .map_err(Error::io(|| format!("write '{}'", staged.display())))
}

/// Puts an image's config, which is staged on the same file system, in its place for good. The caller holds the
/// root's lock.
pub fn place(root: &Root, image: &Image, staged: &Path) -> Result<()> {
    let path = path(root, image.id());
    durable::rename(staged, &path).map_err(Error::io(|| format!("write '{}'", path.display())))
}

/// Forgets an image's config. The caller holds the root's lock, and removes its names before.
pub fn remove(root: &Root, id: &Digest) -> Result<()> {
    let path = path(root, id);
    match fs::remove_file(&path).and_then(|()| durable::sync_parent(&path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(|| format!("remove '{}'", path.display()))(e))
        }
        _ => Ok(()),
    }
}

/// What somebody meant who wrote this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// One of the image's names.
    ByName(Reference, Digest),
    /// Its id, or the beginning of it.
    ById(Digest),
}

impl Found {
    /// The image that was meant.
    pub fn id(&self) -> &Digest {
        match self {
            Self::ByName(_, id) | Self::ById(id) => id,
        }
    }
}

/// Finds an image by its id, a name, or the beginning of its id that no other image has, in this order.
pub fn find(root: &Root, text: &str) -> Result<Found> {
    let missing = || Error::no_such("image", text.chars().flat_map(char::escape_debug).collect::<String>());
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_hex && hex.len() == 64 {
        let id: Digest = format!("sha256:{hex}").parse().map_err(|_| missing())?;
        return if path(root, &id).exists() { Ok(Found::ById(id)) } else { Err(missing()) };
    }
    let name = text.parse::<Reference>();
    if let Ok(name) = &name
        && let Some(id) = Tags::read(root)?.get(name)
    {
        return Ok(Found::ByName(name.clone(), *id));
    }
    if is_hex {
        let mut matching = ids(root)?.into_iter().filter(|id| id.hex().starts_with(hex));
        match (matching.next(), matching.next()) {
            (Some(id), None) => return Ok(Found::ById(id)),
            (Some(_), Some(_)) => {
                return Err(Error::Invalid(format!(
                    "'{text}' begins more than one image id; give more digits"
                )));
            }
            (None, _) => {}
        }
    }
    name.map_err(|refused| if is_hex { missing() } else { refused })
        .and_then(|name| Err(Error::no_such("image", name.to_string())))
}
