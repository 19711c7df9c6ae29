//! A change that an operator has looked at: what was planned is what is done.

/// A plan whose hash was given back by whoever reviewed it. Writers take nothing less:
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
    /// Only plans call this, when the hash is right.
    pub(crate) fn new(plan: P) -> Self {
        Self(plan)
    }

    /// The plan, to be carried out.
    #[must_use]
    pub fn into_plan(self) -> P {
        self.0
    }

    /// The plan, to be reported.
    #[must_use]
    pub fn plan(&self) -> &P {
        &self.0
    }
}
