//! The storage drivers of Docker's whose directories are understood, by Docker's names of them.

use mica_core::WhiteoutForm;

/// The directories of a root that may be file systems of their own.
pub(super) const PLACES: [&str; 6] = ["aufs", "aufs/diff", "containers", "image", "overlay2", "volumes"];

/// A storage driver of Docker's whose directories are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Aufs,
    Overlay2,
}

impl Format {
    pub(super) const ALL: [Self; 2] = [Self::Aufs, Self::Overlay2];

    /// Docker's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aufs => "aufs",
            Self::Overlay2 => "overlay2",
        }
    }

    /// The directory that has the files of a layer.
    pub(super) fn directory(self, layer: &str) -> String {
        match self {
            Self::Aufs => format!("aufs/diff/{layer}"),
            Self::Overlay2 => format!("overlay2/{layer}/diff"),
        }
    }

    /// How a deletion is written in there.
    pub(super) fn whiteouts(self) -> WhiteoutForm {
        match self {
            Self::Aufs => WhiteoutForm::Aufs,
            Self::Overlay2 => WhiteoutForm::Overlay { user_xattr: false },
        }
    }
}
