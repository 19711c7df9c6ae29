//! A change reviewed by an operator.

/// A plan confirmed by its hash. Writers require this type:
///
/// ```compile_fail,E0308
/// use kms_domain::{confirmed::Confirmed, registry::retire::Plan};
///
/// fn apply(_: Confirmed<Plan>) {}
///
/// fn apply_without_review(plan: Plan) {
///     apply(plan);
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed<P>(P);

impl<P> Confirmed<P> {
    /// Called only by plans, after they have compared the hash.
    pub(crate) fn new(plan: P) -> Self {
        Self(plan)
    }

    /// The plan, for execution.
    #[must_use]
    pub fn into_plan(self) -> P {
        self.0
    }

    /// The plan, for reports.
    #[must_use]
    pub fn plan(&self) -> &P {
        &self.0
    }
}
