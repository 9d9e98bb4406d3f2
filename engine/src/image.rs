//! An image: its config as it came, byte for byte, and the chain of layers that it names.

use mica_archive::Digest;
use oci_spec::image::ImageConfiguration;

use crate::chain::ChainId;
use crate::error::shown;
use crate::{Error, Result};

/// The most that an image config may have, in bytes; registries allow four MiB for a manifest.
pub const MAX_CONFIG: u64 = 8 << 20;

/// The most layers of one image: as many as the kernel's overlayfs takes, less those of a container.
pub const MAX_LAYERS: usize = 498;

/// An image. Its id is the digest of its config.
#[derive(Clone, Debug)]
pub struct Image {
    id: Digest,
    blob: Vec<u8>,
    config: ImageConfiguration,
    diff_ids: Vec<Digest>,
    chain: Vec<ChainId>,
}

impl Image {
    /// Reads a config. The bytes are kept as they are.
    pub fn parse(blob: Vec<u8>) -> Result<Self> {
        let id = Digest::of(&blob);
        let refuse = |why: String| Error::Invalid(format!("image config {id} cannot be used: {why}"));
        let config: ImageConfiguration = serde_json::from_slice(&blob).map_err(|e| refuse(e.to_string()))?;
        if config.rootfs().typ() != "layers" {
            return Err(refuse(format!(
                "its root file system is of type '{}', not 'layers'",
                shown(config.rootfs().typ())
            )));
        }
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() > MAX_LAYERS {
            return Err(refuse(format!("it has {} layers, more than {MAX_LAYERS}", diff_ids.len())));
        }
        let diff_ids: Result<Vec<Digest>, _> = diff_ids.iter().map(|text| text.parse()).collect();
        let diff_ids = diff_ids.map_err(|e| refuse(format!("{e}")))?;
        let chain = ChainId::of_all(&diff_ids);
        Ok(Self { id, blob, config, diff_ids, chain })
    }

    /// The digest of the config.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// The first 12 digits of the id, as lists show it.
    pub fn short_id(&self) -> String {
        self.id.hex()[..12].to_owned()
    }

    /// The config as it came.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The config as the OCI specification reads it.
    pub fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// The digests of the uncompressed layers, the base first.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// The names of the layers, the base first.
    pub fn chain(&self) -> &[ChainId] {
        &self.chain
    }

    /// The name of the last layer; `None` for an image without layers.
    pub fn top(&self) -> Option<&ChainId> {
        self.chain.last()
    }

    /// When it was made, in seconds since 1970; 0 where the config does not say.
    pub fn created(&self) -> i64 {
        let text = self.config.created().as_deref().unwrap_or_default();
        text.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_of_docker_keeps_its_bytes_and_its_id() {
        let blob = br#"{ "architecture":"amd64", "config":{"Env":null,"ExposedPorts":{"80/tcp":{}},"Volumes":null,"Healthcheck":{"Test":["NONE"]}},
            "os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:1ee362bd6cf5d3df1557beb3cb9da8a07838f5196d46461a2c8e0028c2e05b44"]}}"#;
        let image = Image::parse(blob.to_vec()).unwrap();
        assert_eq!(image.blob(), blob);
        assert_eq!(*image.id(), Digest::of(blob));
        assert_eq!(image.top().unwrap().to_string(), image.diff_ids()[0].to_string());
    }

    #[test]
    fn a_hostile_config_is_refused_in_one_line() {
        let layer = format!("\"{}\"", Digest::of(b""));
        let many = vec![layer.as_str(); MAX_LAYERS + 1].join(",");
        for rootfs in [
            r#"{"type":"layers","diff_ids":["sha256:../../etc"]}"#.to_owned(),
            r#"{"type":"layers","diff_ids":["md5:00"]}"#.to_owned(),
            r#"{"type":"windows","diff_ids":[]}"#.to_owned(),
            r#"{"type":"a\n\u001b[2J","diff_ids":[]}"#.to_owned(),
            format!(r#"{{"type":"layers","diff_ids":[{many}]}}"#),
            "{}".to_owned(),
        ] {
            let blob = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{rootfs}}}"#);
            let text = Image::parse(blob.into_bytes()).unwrap_err().to_string();
            assert!(text.contains("cannot be used") && !text.contains(char::is_control), "{text:?}");
        }
        assert!(Image::parse(b"\xff\x00".to_vec()).is_err());
    }
}
