//! `inspect` of an image, in Docker's words.

use mica_core::{Layer, Store};
use serde_json::{Map, Value, json};

use crate::{Engine, Image, Reference, Result, layers};

impl Engine {
    /// What there is to know of an image.
    pub fn inspect_image(&self, image: &Image) -> Result<Value> {
        let (digests, tags): (Vec<_>, Vec<_>) =
            self.tags_of(image.id())?.into_iter().partition(|name| name.digest().is_some());
        let shown = |names: Vec<Reference>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        // The config as it came has more than the OCI specification knows of, such as a health check.
        let config: Value = serde_json::from_slice(image.blob()).unwrap_or_default();
        let step = self.history(image)?.into_iter().next();
        Ok(json!({
            "Id": image.id(),
            "RepoTags": shown(tags),
            "RepoDigests": shown(digests),
            "Parent": "",
            "Comment": step.map(|step| step.comment).unwrap_or_default(),
            "Created": image.config().created(),
            "Author": image.config().author().clone().unwrap_or_default(),
            "Config": config["config"],
            "Architecture": image.config().architecture().to_string(),
            "Os": image.config().os().to_string(),
            "Size": self.size(image)?,
            "GraphDriver": self.image_driver(image)?,
            "RootFS": { "Type": "layers", "Layers": image.diff_ids() },
        }))
    }

    /// The driver that has the image, and where it keeps the last layer.
    fn image_driver(&self, image: &Image) -> Result<Value> {
        let Some(top) = image.top() else { return Ok(Value::Null) };
        let record = layers::record(self.root(), top)?;
        for driver in record.drivers.keys() {
            let Ok(store) = self.store(Some(driver)) else { continue };
            if let Some(layer) = layers::committed(self.root(), image.chain(), driver)? {
                return Ok(json!({ "Name": driver, "Data": graph_data(&store, &layer) }));
            }
        }
        Ok(Value::Null)
    }
}

/// What a driver says of a layer, as `GraphDriver.Data`; empty where it says nothing.
pub(crate) fn graph_data<S>(store: &Store, layer: &Layer<S>) -> Map<String, Value> {
    let rows = store.layer_status(layer).unwrap_or_default();
    rows.into_iter().map(|(name, value)| (name, value.into())).collect()
}
