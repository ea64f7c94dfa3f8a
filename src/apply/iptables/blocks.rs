//! How a change is written: as one block, or, where it is large, in several.
//!
//! In iptables-nft each command of a block walks a list of all the names in it, and each COMMIT makes the kernel walk
//! what can be reached in the table. So neither one block nor one for each chain will do.

use std::collections::HashMap;

use super::change::{Change, Filled};

/// Chains of a block in a small table.
const FEW: usize = 200;
/// Lines of a call; one that cannot be divided has more. A tenth of a second's work on a slow box.
const CALL: usize = 10_000;

/// The blocks of a change, in the order of writing. The kernel takes each as a whole or not at all, and between any two
/// of them packets meet what they met before the change, or what they meet after it.
#[derive(Debug)]
pub struct Blocks<'a> {
    /// Calls of several blocks each: chains that nothing leads to yet, each behind those that it leads to.
    pub ahead: Vec<Vec<Change<'a>>>,
    /// All that packets meet.
    pub switch: Change<'a>,
    /// Calls of several blocks each: chains that nothing leads to any more. First they are emptied, then they go.
    pub behind: Vec<Vec<Change<'a>>>,
}

/// Chains of one block, of `held` that are there and `new` ones. The walk in the tool costs some 25 ns for each pair of
/// chains in a block; that in the kernel, with each block, some 1.4 us for each chain that is reached, and 0.1 us for
/// any other.
pub fn size(held: usize, new: usize) -> usize {
    let root = |n: usize| (n as f64).sqrt();
    FEW.max((7.0 * root(held)) as usize).max((1.5 * root(new)) as usize)
}

impl<'a> Blocks<'a> {
    /// Divides a change that has more than `size` chains.
    pub fn of(change: Change<'a>, size: usize) -> Self {
        if change.chains() <= size {
            return Blocks { ahead: Vec::new(), switch: change, behind: Vec::new() };
        }
        let part = || change.part();
        let order = leaves_first(&change.make);
        let ahead = order.chunks(size).map(|chunk| Change { make: chunk.to_vec(), ..part() }).collect();
        // Whatever led to them goes with the switch.
        let flush = change.delete.chunks(size).map(|chunk| Change { flush: chunk.to_vec(), ..part() });
        let delete = change.delete.chunks(size).map(|chunk| Change { delete: chunk.to_vec(), ..part() });
        let behind = flush.chain(delete).collect();
        Blocks { ahead: calls(ahead), behind: calls(behind), switch: change.of_what_is_there() }
    }
}

fn calls(blocks: Vec<Change<'_>>) -> Vec<Vec<Change<'_>>> {
    let mut calls: Vec<Vec<Change<'_>>> = Vec::new();
    let mut lines = 0;
    for block in blocks {
        lines += block.lines();
        match calls.last_mut() {
            Some(call) if lines <= CALL => call.push(block),
            _ => {
                lines = block.lines();
                calls.push(vec![block]);
            }
        }
    }
    calls
}

/// Each chain behind those that it leads to. Otherwise as if by chance (names end with a digest): iptables sorts chains
/// by name to list them, and needs a time in the square of their number where the kernel has them in that order.
fn leaves_first<'a>(chains: &[Filled<'a>]) -> Vec<Filled<'a>> {
    let index: HashMap<&str, usize> = chains.iter().enumerate().map(|(i, (name, _))| (&***name, i)).collect();
    let mut waits_for = vec![0usize; chains.len()];
    let mut leads_here = vec![Vec::new(); chains.len()];
    for (from, (_, chain)) in chains.iter().enumerate() {
        for to in chain.iter().filter_map(|rule| index.get(rule.target.chain()?)) {
            waits_for[from] += 1;
            leads_here[*to].push(from);
        }
    }
    let mut order = Vec::with_capacity(chains.len());
    let mut layer: Vec<usize> = (0..chains.len()).filter(|i| waits_for[*i] == 0).collect();
    while !layer.is_empty() {
        layer.sort_by(|a, b| chains[*a].0.bytes().rev().cmp(chains[*b].0.bytes().rev()));
        order.extend(layer.iter().map(|i| chains[*i]));
        let mut next = Vec::new();
        for from in layer.iter().flat_map(|to| &leads_here[*to]) {
            waits_for[*from] -= 1;
            if waits_for[*from] == 0 {
                next.push(*from);
            }
        }
        layer = next;
    }
    // Chains in a circle: the kernel says what is wrong with them.
    order.extend(chains.iter().zip(waits_for).filter(|(_, waits)| *waits > 0).map(|(chain, _)| *chain));
    order
}
