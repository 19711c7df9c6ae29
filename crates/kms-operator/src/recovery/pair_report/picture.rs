//! Picture of a verified pair: the objects of each resource by key version, with their condition.

use kms_domain::{
    recovery::resolve::{Resolution, ResolveError},
    registry::document::Document,
};
use kms_node::report::{
    counted,
    picture::{Column, Condition, Grid, Picture, Rating},
};

use super::{Facts, KeyIdRow};
use crate::recovery::{
    picture::{add_lineage, add_record, add_registry},
    verify_pair::Row,
};

const LOST: Condition = Condition::new(Rating::Bad, "lost");
const UNTESTED: Condition = Condition::new(Rating::Odd, "untested");
const READABLE: Condition = Condition::new(Rating::Good, "readable");

pub(super) fn picture(facts: Facts<'_>, key_ids: &[KeyIdRow]) -> Picture {
    let mut picture = Picture::default();
    add_lineage(&mut picture, &facts.pair.lineage);
    if let Some(registry) = facts.state.ok().map(Document::registry) {
        add_registry(&mut picture, registry);
    }
    if let Some(record) = facts.record {
        add_record(&mut picture, record);
    }
    for row in key_ids {
        if let Some(version) = row.transit_version {
            let need = format!("{}: {}", counted(row.objects, "object"), row.message);
            picture.add_need(version, need);
        }
    }
    picture.add_grid(grid(&facts.pair.rows));
    picture
}

fn grid(rows: &[Row]) -> Grid {
    let mut grid = Grid::new("Objects by resource and key version", "resource");
    for row in rows {
        let column = match row.version {
            Some(version) => Column::Version(version.get()),
            None => Column::Other("unknown version".to_owned()),
        };
        for (resource, condition, objects) in by_condition(row) {
            grid.add(resource, column.clone(), condition, objects);
        }
    }
    grid
}

/// The objects of each resource by their condition.
fn by_condition(row: &Row) -> impl Iterator<Item = (&str, Condition, u64)> {
    let rest = rest(row);
    let split = row.resources.iter().flat_map(move |(resource, objects)| {
        let failed = [&row.refused, &row.unopened].map(|counts| counts.get(resource));
        let failed = failed.into_iter().flatten();
        let lost = failed.copied().fold(0, u64::saturating_add).min(*objects);
        let parts = [(LOST, lost), (rest, objects.saturating_sub(lost))];
        parts.map(|(condition, objects)| (resource.as_str(), condition, objects))
    });
    split.filter(|(.., objects)| *objects > 0)
}

/// Condition of the objects without a failed trial.
fn rest(row: &Row) -> Condition {
    let finding = &row.finding;
    match &finding.origin {
        Resolution::Unresolved(
            ResolveError::Hidden { .. }
            | ResolveError::OtherProvider { .. }
            | ResolveError::Unknown { .. },
        )
        | Resolution::Known(_) => UNTESTED,
        Resolution::Unresolved(_) => LOST,
        Resolution::Live(_) if finding.seeds.untried > 0 => UNTESTED,
        Resolution::Live(_) => match finding.data {
            Some(data) if data.untried > 0 => UNTESTED,
            _ => READABLE,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{lost, open},
        *,
    };
    use crate::claims::any_pair;

    proptest! {
        #[test]
        fn a_grid_shows_every_loss_and_calls_only_tested_objects_readable(pair in any_pair()) {
            for row in &pair.rows {
                let [found_lost, untested, readable] = [LOST, UNTESTED, READABLE].map(|condition| {
                    let of = by_condition(row).filter(|(_, word, _)| *word == condition);
                    of.map(|(.., objects)| objects).sum::<u64>()
                });
                prop_assert_eq!(found_lost + untested + readable, row.finding.objects);
                prop_assert_eq!(found_lost, lost(row).min(row.finding.objects));
                prop_assert!(open(row) == 0 || readable == 0);
            }
        }
    }
}
