//! Version and origin of the build, from the build environment.

use kms_domain::annotations::PluginVersion;

/// Version and origin of this program.
#[derive(Debug, Clone, Copy)]
pub struct BuildInfo {
    /// Version of the crate.
    pub version: &'static str,
    /// The source revision, or `unknown`.
    pub commit: &'static str,
    /// RFC 3339, or `unknown`.
    pub build_date: &'static str,
    /// Whether the source differed from the revision, or `unknown`.
    pub dirty: &'static str,
}

impl BuildInfo {
    /// The running program.
    pub const CURRENT: Self = Self {
        version: concat!("v", env!("CARGO_PKG_VERSION")),
        commit: or_unknown(option_env!("BUILD_COMMIT")),
        build_date: or_unknown(option_env!("BUILD_DATE")),
        dirty: or_unknown(option_env!("BUILD_DIRTY")),
    };

    /// The plugin version stored beside every object encrypted by this program.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "a constant of this crate, checked by a test"
    )]
    pub fn plugin_version(self) -> PluginVersion {
        PluginVersion::new(self.version).expect("a crate has a version")
    }

    /// The labels of the build metric.
    #[must_use]
    pub fn labels(self) -> [(&'static str, &'static str); 4] {
        [
            ("version", self.version),
            ("commit", self.commit),
            ("build_date", self.build_date),
            ("dirty", self.dirty),
        ]
    }
}

const fn or_unknown(given: Option<&'static str>) -> &'static str {
    match given {
        Some(given) => given,
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_build_can_stand_in_an_annotation() {
        assert_eq!(
            BuildInfo::CURRENT.plugin_version().as_str(),
            BuildInfo::CURRENT.version
        );
    }
}
