//! Picture of the nodes: the key versions of each.

use std::collections::BTreeMap;

use kms_node::report::picture::{Column, Condition, Grid, Picture, Rating};

use super::{NodeRow, Seen};
use crate::nodes::LookError;

const ACTIVE: Condition = Condition::new(Rating::Good, "active");
const BEHIND: Condition = Condition::new(Rating::Odd, "active, not the newest");
const PENDING: Condition = Condition::new(Rating::Odd, "pending");
const OLDEST: Condition = Condition::new(Rating::Plain, "oldest readable");
const NO_VERSION: Condition = Condition::new(Rating::Bad, "unknown");

pub(super) fn picture(rows: &[NodeRow], seen: &[Result<Seen, LookError>]) -> Picture {
    let mut picture = Picture::default();
    let newest = rows
        .iter()
        .filter_map(|row| row.active_transit_version)
        .max();
    let mut grid = Grid::new("Nodes by key version", "node");
    let mut needs: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (row, seen) in rows.iter().zip(seen) {
        let active = row.active_transit_version;
        let condition = if active == newest { ACTIVE } else { BEHIND };
        let versions = [
            (active, condition),
            (row.pending_transit_version, PENDING),
            (row.oldest_readable_transit_version, OLDEST),
        ];
        for (version, condition) in versions {
            let Some(version) = version else { continue };
            grid.add(&row.name, Column::Version(version), condition, 0);
            let needs = needs.entry(version).or_default();
            needs.push(format!("{} on {}", condition.word, row.name));
        }
        if active.is_none() {
            let column = Column::Other("active version".to_owned());
            grid.add(&row.name, column, NO_VERSION, 0);
        }
        let pending = seen.as_ref().ok().and_then(|seen| seen.pending_since);
        if let (Some(second), Some(version)) = (pending, row.pending_transit_version) {
            let event = format!("version {version} found on {}", row.name);
            picture.add_event(second, event);
        }
    }
    picture.add_grid(grid);
    for (version, needs) in needs {
        needs
            .into_iter()
            .for_each(|need| picture.add_need(version, need));
    }
    picture
}
