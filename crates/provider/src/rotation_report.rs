//! Where this node stands in a rotation: what its state says, what the key says, and what neither
//! can tell. Looks and changes nothing.

mod rewriting;

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        origin::{Lineage, LiveKey},
        rebuild::OWN_STATE,
    },
    registry::{
        Registry,
        anchor::Anchor,
        document::Document,
        rotation::{RotationRules, RotationState, discover},
    },
    transit::KeyProfile,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value, json};

use crate::{
    cli::exit::Exit,
    config::Config,
    connection,
    diagnose::{
        call_remedy,
        state::{MAY_BOOTSTRAP, caution, may_bootstrap},
    },
    recovery::evidence::Asked,
    report::{Render, one_line},
    state::{StateError, Stored},
    watcher::metadata::read_profile,
};
use rewriting::{Facts, RewritingShown};

/// Which command asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What a rotation is waiting for.
    Plan,
    /// How far one is, and how much of that can be known here.
    Verify,
}

/// What `verify-rotation` cannot know without evidence.
const LIMITATIONS: &str = "Local state and the key's metadata cannot prove that every object in \
    etcd and every backup was rewritten under the active version. Rewrite all objects and let old \
    backups expire before you retire a version; until then every older version must stay \
    decryptable in OpenBao.";

const UNHARMED: &str = "nothing was changed and no data is lost: what is shown here of the state \
    holds; do not edit the state, and do not recreate the key";

/// What this node knows, and where etcd was read what that shows.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationReport {
    schema_version: &'static str,
    command: &'static str,
    name: &'static str,
    #[serde(flatten)]
    facts: NamedFacts,
    #[serde(flatten)]
    rewriting: Option<RewritingShown>,
    #[serde(skip)]
    failed: bool,
}

/// Named facts, the same in text and in JSON.
#[derive(Debug, Default)]
struct NamedFacts(Vec<(&'static str, Value)>);

struct Unread {
    error: String,
    remedy: Option<&'static str>,
}

impl RotationReport {
    /// Reads the state, then the key, then the evidence. What is known without one of the latter is
    /// reported without it.
    ///
    /// # Errors
    /// When the state cannot be used.
    pub fn gather(
        config: &Config,
        question: Question,
        evidence: Option<Asked<'_>>,
    ) -> Result<Self, StateError> {
        let stored = config.state().load()?;
        let read = read(config);
        let mut report = Self {
            schema_version: "v1",
            command: question.command(),
            name: question.command(),
            facts: NamedFacts::default(),
            rewriting: None,
            failed: false,
        };
        report.metadata(config, stored.document.as_ref(), &read);
        report.files(&stored);
        let profile = read.as_ref().ok();
        if stored.anchor == Anchor::Absent {
            report.bootstrap(config, profile);
        }
        let registry = stored.document.as_ref().map(|it| &**it.registry());
        report.rotation(registry, profile, config.rotation.activation_delay);
        let rewriting = evidence.map(|asked| rewriting(config, asked, registry, profile));
        if question == Question::Verify {
            let shown = rewriting.as_ref();
            report.add(
                "confidence",
                shown.map_or("limited", RewritingShown::confidence),
            );
            let limitations = shown.map_or(LIMITATIONS, RewritingShown::limitations);
            report.add("limitations", limitations);
        }
        report.rewriting = rewriting;
        Ok(report)
    }

    /// The exit code: what stands in the way of a rotation, or of a first state, before what is yet
    /// to be rewritten.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match &self.rewriting {
            _ if self.failed => Exit::CheckFailed,
            Some(rewriting) => rewriting.exit(),
            None => Exit::Success,
        }
    }

    fn metadata(
        &mut self,
        config: &Config,
        document: Option<&Document>,
        read: &Result<KeyProfile, Unread>,
    ) {
        let rules = RotationRules {
            required_observations: config.rotation.required_observations,
            reject_version_rollback: config.rotation.reject_version_rollback,
        };
        let (error, remedy) = match (read, document) {
            (Err(unread), _) => (Some(unread.error.clone()), unread.remedy),
            // The next probe of the provider would refuse it for the same reason.
            (Ok(profile), Some(document)) => {
                let refused = discover(document, profile, &rules, 0).err();
                (refused.map(|refused| one_line(&refused)), None)
            }
            (Ok(_), None) => (None, None),
        };
        let Some(error) = error else {
            self.add("transitMetadataStatus", "pass");
            return;
        };
        self.failed = true;
        self.add("transitMetadataStatus", "fail");
        self.add("transitMetadataError", error);
        let remedy = remedy.unwrap_or("mend what the error names");
        self.add("transitMetadataNextStep", format!("{remedy}; {UNHARMED}"));
    }

    fn files(&mut self, stored: &Stored) {
        let document = stored.document.as_ref();
        let checkpoint = stored.checkpoint.as_ref();
        self.add("stateLoaded", document.is_some());
        self.add_if("stateGeneration", document.map(|it| it.generation().get()));
        self.add_if("stateHash", document.map(|it| it.hash().as_str()));
        self.add("stateCheckpointLoaded", checkpoint.is_some());
        self.add("stateCheckpointStatus", stored.checkpoint_status());
        let caution = caution(stored.anchor).map(|(message, _)| message);
        self.add_if("stateCheckpointWarning", caution);
        self.add_if(
            "stateCheckpointGeneration",
            checkpoint.map(|it| it.generation().get()),
        );
        self.add_if(
            "stateCheckpointHash",
            checkpoint.map(|it| it.hash().as_str()),
        );
    }

    fn bootstrap(&mut self, config: &Config, profile: Option<&KeyProfile>) {
        let reason = match profile.map(|it| may_bootstrap(it, &config.scope, &config.key)) {
            None => Err("it depends on the key, whose metadata could not be read".to_owned()),
            Some(Ok(())) => Ok(MAY_BOOTSTRAP.to_owned()),
            Some(Err(denied)) => Err(denied.to_string()),
        };
        self.failed |= reason.is_err();
        self.add("stateBootstrapEligible", reason.is_ok());
        let (Ok(reason) | Err(reason)) = reason;
        self.add("stateBootstrapReason", reason);
    }

    fn rotation(
        &mut self,
        registry: Option<&Registry>,
        profile: Option<&KeyProfile>,
        activation_delay: Duration,
    ) {
        let active = registry.map(Registry::active);
        self.add("rotationState", RotationState::of(registry).as_str());
        self.add_if("activeKeyIdHash", active.map(|it| it.id_hash().as_str()));
        self.add_if("activeTransitVersion", active.map(|it| it.version().get()));
        self.add_if("latestTransitVersion", profile.map(|it| it.latest().get()));
        let Some(pending) = registry.and_then(Registry::pending) else {
            return;
        };
        let seen = pending.bookkeeping.stable_observation_count();
        self.add("pendingKeyIdHash", pending.key.id_hash().as_str());
        self.add("pendingTransitVersion", pending.key.version().get());
        self.add(
            "pendingStableObservationCount",
            seen.map_or(0, |count| count.get()),
        );
        // An estimate: a restart of the provider begins the delay anew.
        self.add_if(
            "pendingPromotesAfter",
            pending
                .bookkeeping
                .promotes_after(activation_delay)
                .and_then(|seconds| i64::try_from(seconds).ok())
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .map(|time| time.to_string()),
        );
    }

    fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.facts.0.push((name, value.into()));
    }

    fn add_if(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }
}

impl Question {
    fn command(self) -> &'static str {
        match self {
            Self::Plan => "rotation-plan",
            Self::Verify => "verify-rotation",
        }
    }
}

/// What the evidence shows. The state alone tells the versions as well as the key does, if the key
/// could not be read.
fn rewriting(
    config: &Config,
    asked: Asked<'_>,
    registry: Option<&Registry>,
    profile: Option<&KeyProfile>,
) -> RewritingShown {
    let claims = registry.map(|it| VersionClaims::of_registry(OWN_STATE, it));
    let lineage = Lineage::new(
        Arc::new(KeyScope::new(config.scope.clone())),
        profile.map_or(LiveKey::Unknown, |it| LiveKey::Listed(it.clone())),
        claims,
    );
    match asked.read(&lineage) {
        Ok(sources) => RewritingShown::of(Facts {
            sources: &sources,
            registry,
            profile,
            provider: config.scope.provider_name.as_str(),
        }),
        Err(error) => RewritingShown::unread(&error),
    }
}

/// The key, or in words why it is of no use and what to look at.
fn read(config: &Config) -> Result<KeyProfile, Unread> {
    connection::ask(config, async |openbao| {
        read_profile(&openbao.session, &openbao.transit, &config.key).await
    })
    .map_err(|error| Unread {
        error: one_line(&error),
        remedy: None,
    })?
    .map_err(|error| Unread {
        error: one_line(&error),
        remedy: error.call().and_then(call_remedy),
    })
}

impl Serialize for NamedFacts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Every fact that a report may hold, with its JSON type.
const FACTS: [(&str, &str); 23] = [
    ("transitMetadataStatus", "string"),
    ("transitMetadataError", "string"),
    ("transitMetadataNextStep", "string"),
    ("stateLoaded", "boolean"),
    ("stateGeneration", "integer"),
    ("stateHash", "string"),
    ("stateCheckpointLoaded", "boolean"),
    ("stateCheckpointStatus", "string"),
    ("stateCheckpointWarning", "string"),
    ("stateCheckpointGeneration", "integer"),
    ("stateCheckpointHash", "string"),
    ("stateBootstrapEligible", "boolean"),
    ("stateBootstrapReason", "string"),
    ("rotationState", "string"),
    ("activeKeyIdHash", "string"),
    ("activeTransitVersion", "integer"),
    ("latestTransitVersion", "integer"),
    ("pendingKeyIdHash", "string"),
    ("pendingTransitVersion", "integer"),
    ("pendingStableObservationCount", "integer"),
    ("pendingPromotesAfter", "string"),
    ("confidence", "string"),
    ("limitations", "string"),
];

impl JsonSchema for NamedFacts {
    fn schema_name() -> Cow<'static, str> {
        "NamedFacts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let properties: Map<String, Value> = FACTS
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), json!({"type": kind})))
            .collect();
        json_schema!({
            "type": "object",
            "properties": properties,
            "required": [
                "transitMetadataStatus", "stateLoaded", "stateCheckpointLoaded",
                "stateCheckpointStatus", "rotationState",
            ],
        })
    }
}

impl Render for RotationReport {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.name)?;
        for (name, value) in &self.facts.0 {
            match value {
                Value::String(text) => writeln!(out, "{name}: {text}")?,
                value => writeln!(out, "{name}: {value}")?,
            }
        }
        match &self.rewriting {
            Some(rewriting) => rewriting.text(out),
            None => Ok(()),
        }
    }
}
