//! Limits the size of reports. A cluster has a few dozen key IDs and resources, but anyone with
//! write access to etcd can create millions, which would fill disks and logs. Rows left out are
//! counted, so sums over a report remain exact.

use std::{cmp::Reverse, collections::BTreeMap};

use kms_node::report::table::Table;
use schemars::JsonSchema;
use serde::Serialize;

/// Maximum number of rows per kind in JSON.
pub(super) const ROWS: usize = 1_000;
/// Maximum number of rows per kind in text, and of entries per row in any format.
pub(super) const FEW_ROWS: usize = 100;
/// Maximum number of items in a sentence.
pub(super) const FEW_WORDS: usize = 20;

/// Rows split at a limit. Both parts keep the original order.
pub(super) struct Truncated<T> {
    pub(super) shown: Vec<T>,
    pub(super) left_out: Vec<T>,
}

/// Totals of the rows left out of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeftOut {
    /// Number of rows.
    pub(super) rows: u64,
    /// Number of objects in these rows.
    pub(super) objects: u64,
}

impl<T> Truncated<T> {
    /// Shows at most `most` rows. Rows with `matters` have precedence.
    pub(super) fn of(
        rows: impl IntoIterator<Item = T>,
        most: usize,
        matters: impl Fn(&T) -> bool,
    ) -> Self {
        let rows: Vec<T> = rows.into_iter().collect();
        if rows.len() <= most {
            return Self {
                shown: rows,
                left_out: Vec::new(),
            };
        }
        let that_matter = rows.iter().filter(|row| matters(row)).count();
        let mut room_for_these = most.min(that_matter);
        let mut room_for_others = most.saturating_sub(room_for_these);
        let (shown, left_out) = rows.into_iter().partition(|row| {
            let room = match matters(row) {
                true => &mut room_for_these,
                false => &mut room_for_others,
            };
            let fits = *room > 0;
            *room = room.saturating_sub(1);
            fits
        });
        Self { shown, left_out }
    }
}

impl LeftOut {
    /// `None` if `rows` is empty.
    pub(super) fn of<T>(rows: &[T], objects: impl Fn(&T) -> u64) -> Option<Self> {
        (!rows.is_empty()).then(|| Self {
            rows: u64::try_from(rows.len()).unwrap_or(u64::MAX),
            objects: rows.iter().map(objects).fold(0, u64::saturating_add),
        })
    }

    /// Adds a sentence on both to the table: `and 2 more rows of 7 objects`.
    pub(super) fn note(
        table: &mut Table,
        one: Option<Self>,
        other: Option<Self>,
        (rows, objects): (&str, &str),
    ) {
        if let Some(more) = Self::and(one, other) {
            let text = format!(
                "and {} more {rows} of {} {objects}",
                more.rows, more.objects
            );
            table.left_out(text);
        }
    }

    /// Sum of both.
    fn and(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (Some(one), Some(other)) = (one, other) else {
            return one.or(other);
        };
        Some(Self {
            rows: one.rows.saturating_add(other.rows),
            objects: one.objects.saturating_add(other.objects),
        })
    }
}

/// The largest counts, and the totals of the others.
pub(super) fn largest(counts: &BTreeMap<String, u64>) -> (BTreeMap<String, u64>, Option<LeftOut>) {
    let mut by_size: Vec<_> = counts.iter().collect();
    by_size.sort_by_key(|(_, objects)| Reverse(**objects));
    let (shown, left_out) = by_size.split_at(by_size.len().min(FEW_ROWS));
    let shown = shown
        .iter()
        .map(|(name, objects)| ((*name).clone(), **objects));
    let left_out = LeftOut::of(left_out, |(_, objects)| **objects);
    (shown.collect(), left_out)
}

/// The first few items, separated by commas, and the number of further items plus `unseen`.
pub(super) fn few(words: &[String], unseen: u64) -> String {
    let shown: Vec<&str> = words.iter().map(String::as_str).take(FEW_WORDS).collect();
    let more = u64::try_from(words.len().saturating_sub(shown.len())).unwrap_or(u64::MAX);
    let shown = shown.join(", ");
    match more.saturating_add(unseen) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_matter_are_shown_and_the_others_as_far_as_there_is_room() {
        let truncated = |most| {
            let truncated = Truncated::of(0..10_u64, most, |number| number % 4 == 3);
            let left_out = LeftOut::of(&truncated.left_out, |number| *number);
            (truncated.shown, left_out.map(|it| (it.rows, it.objects)))
        };
        assert_eq!(truncated(10), ((0..10).collect(), None));
        assert_eq!(truncated(4), (vec![0, 1, 3, 7], Some((6, 34))));
        assert_eq!(truncated(1), (vec![3], Some((9, 42))));
    }

    #[test]
    fn the_largest_counts_are_shown() {
        let counts = (0..102_u64).map(|number| (format!("r{number:03}"), number));
        let (shown, left_out) = largest(&counts.collect());
        assert_eq!((shown.len(), shown.get("r001")), (100, None));
        assert_eq!(left_out.map(|it| (it.rows, it.objects)), Some((2, 1)));
    }

    #[test]
    fn a_sentence_has_few_parts() {
        let words: Vec<String> = (1..=22).map(|number| number.to_string()).collect();
        assert_eq!(few(&words[..2], 0), "1, 2");
        assert!(few(&words, 3).ends_with("19, 20 and 5 more"));
    }
}
