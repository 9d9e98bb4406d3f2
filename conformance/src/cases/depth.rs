//! Long chains.

use std::path::Path;

use mica_core::{Chain, Committed, Layer, LayerId, LayerOptions};

use super::errors::not_listed;
use super::list;
use crate::bench::{Bench, id};
use crate::files::{mkdir, remove, write};
use crate::outcome::{Doing, Verdict, ensure, refused};
use crate::patience::Patience;

list! {
    "chain-of-128" chain_of_128 =
        "what a layer shows is its parent's tree with its own changes, 128 layers deep";
    "chain-of-500" chain_of_500 =
        "the same 500 layers deep, or as deep as max_depth says, most of them without changes";
    "too-deep" too_deep =
        "create answers Options for a chain deeper than max_depth, and nothing is left",
        MaxDepth else no_limit;
    "intermediate-layers" intermediate_layers =
        "each layer of a chain can be mounted and have more children at any time";
}

/// How many layers a deep chain has on the slowest host.
const LEAST: usize = 128;

/// How many files the top of a deep chain shows. Each layer adds one and removes the one that has become too many.
const SHOWN: usize = 8;

/// The deepest chain up to `wanted` that the driver allows.
fn allowed(bench: &Bench<'_>, wanted: usize) -> usize {
    bench.capabilities().max_depth.map_or(wanted, |limit| limit.min(wanted))
}

fn one_of_many(tree: &Path, number: usize) -> Verdict {
    mkdir(&tree.join("dir"))?;
    write(&tree.join("top"), number.to_string())?;
    write(&tree.join(format!("dir/layer-{number}")), number.to_string())?;
    if number >= SHOWN {
        remove(&tree.join(format!("dir/layer-{}", number - SHOWN)))?;
    }
    Ok(())
}

/// A chain in which every so many layers one has changes. Where layers take long to make, it is less deep, but never less
/// than [`LEAST`].
fn chain_of(bench: &Bench<'_>, depth: usize, each: usize) -> Verdict {
    let plain = bench.room().plain().join("chain");
    mkdir(&plain)?;
    let mut top: Option<Layer<Committed>> = None;
    let mut patience = Patience::at_least(LEAST);
    for number in (0..depth).take_while(|_| patience.lasts()) {
        let layer = bench.create(&format!("layer-{number}"), top.as_ref());
        let layer = layer.and_then(|layer| {
            if number % each == 0 {
                one_of_many(&plain, number / each)?;
                bench.edit(&layer, |tree| one_of_many(tree, number / each))?;
            }
            bench.commit(layer)
        });
        top = Some(layer.map_err(|stop| stop.within(format!("layer {number} of {depth}")))?);
    }
    let Some(top) = top else { return Ok(()) };
    let expected = crate::tree::Snapshot::of(&plain)?;
    bench.snapshot(&top)?.expect(&expected, crate::tree::Times::Ignored)
}

fn chain_of_128(bench: Bench<'_>) -> Verdict {
    chain_of(&bench, allowed(&bench, 128), 1)
}

fn chain_of_500(bench: Bench<'_>) -> Verdict {
    chain_of(&bench, allowed(&bench, 500), 9)
}

/// A chain of empty layers, the ids of its layers with the nearest parent first.
fn empty_chain(bench: &Bench<'_>, depth: usize, least: usize) -> Verdict<Vec<LayerId>> {
    let mut ids: Vec<LayerId> = Vec::new();
    let mut patience = Patience::at_least(least);
    for number in (0..depth).take_while(|_| patience.lasts()) {
        let own = id(&format!("empty-{number}"));
        let chain = Chain { id: &own, parents: &ids };
        bench.driver().create(chain, &LayerOptions::default()).doing(|| format!("create layer {number}"))?;
        bench.driver().commit(chain).doing(|| format!("commit layer {number}"))?;
        ids.insert(0, own);
    }
    Ok(ids)
}

fn too_deep(bench: Bench<'_>) -> Verdict {
    let Some(limit) = bench.capabilities().max_depth else { return Ok(()) };
    let parents = empty_chain(&bench, limit, limit)?;
    let before = bench.leftovers()?;
    let chain = Chain { id: &id("one-more"), parents: &parents };
    refused!(
        bench.driver().create(chain, &LayerOptions::default()),
        Options,
        "create of layer {} of {limit}",
        limit + 1
    );
    not_listed(&bench, "one-more")?;
    bench.leftovers()?.expect_none_since(&before)
}

fn no_limit(bench: Bench<'_>) -> Verdict {
    // More than the kernel's overlayfs takes, which is where most limits come from.
    let depth = 510;
    // How deep it is at the least, `chain-of-500` tells.
    let parents = empty_chain(&bench, depth, 1)?;
    let top = Layer::<Committed>::recorded(parents[0].clone(), parents[1..].to_vec());
    bench
        .look(&top, |_| Ok(()))
        .map_err(|stop| stop.within(format!("a chain of {}, and no limit is claimed", parents.len())))
}

fn intermediate_layers(bench: Bench<'_>) -> Verdict {
    let mut chain: Vec<Layer<Committed>> = Vec::new();
    for number in 0..10 {
        let name = format!("layer-{number}");
        chain.push(bench.layer(&name, chain.last(), |tree| write(&tree.join(number.to_string()), "x"))?);
    }
    for (number, layer) in chain.iter().enumerate() {
        let side =
            bench.layer(&format!("side-{number}"), Some(layer), |tree| write(&tree.join("side"), "x"))?;
        let names = bench.snapshot(&side)?.nodes.len();
        ensure!(
            names == number + 3,
            "a child of layer {number} shows {names} names, expected {}",
            number + 3
        );
    }
    Ok(())
}
