//! Histories that once broke an invariant, each by a mistake made on purpose in the rules.

use crate::{Action, Settings};

/// The mistake, and a shortest history that shows it.
pub(crate) const ALL: &[(&str, Settings, &[Action])] = &[];
