//! The result of `rotation-plan` and `verify-rotation`: the rotation of the key as the state of this node,
//! the key and, if given, etcd data show it. Read-only.

mod picture;
mod rewriting;

use std::{borrow::Cow, fmt, num::NonZeroU64, sync::Arc, time::SystemTime};

use jiff::Timestamp;
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        rebuild::OWN_STATE,
        resolve::{KeyResolver, LiveKey},
    },
    registry::{
        Bookkeeping, Registry,
        checkpoint::CheckpointStatus,
        document::Document,
        rotation::{RotationRefused, RotationRules, RotationState, discover},
    },
    transit::KeyProfile,
};
use kms_node::{
    advice::{
        Advice, Cause, key, node, openbao,
        retirement::{PROMOTION_PENDING, lowest_hidden, of_rotation},
        state,
    },
    config::Config,
    connection::{self, ConnectionError},
    exit::Exit,
    report::{one_line, outcome::Outcome, table::Table},
    state::{StateError, Stored},
    transit_key::{KeyReadError, read_profile},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value, json};

use crate::{
    diagnose::state::{MAY_BOOTSTRAP, caution, may_bootstrap},
    recovery::{
        evidence::Asked,
        evidence_report::{Asker, Values},
    },
};
use rewriting::{Facts, Judgement, RewritingRow};

/// Which command asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationCommand {
    /// Condition of the next promotion.
    Plan,
    /// How far one is, and how much of that can be known here.
    Verify,
}

/// Limit of `verify-rotation` without evidence.
const LIMITATION: &str = "Local state and the key's metadata cannot prove that every object in \
    etcd and every backup was rewritten under the active version. Rewrite all objects and let old \
    backups expire before you retire a version; until then every older version must stay \
    decryptable in OpenBao.";

/// Verdict of a version that no probe of this node has seen.
const NOT_OBSERVED: &str = "not-observed";

/// The members of `rotation-plan` and `verify-rotation`: the facts of this node, and those of etcd
/// where it was read.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    #[serde(flatten)]
    facts: NamedFacts,
    #[serde(flatten)]
    rewriting: Option<RewritingRow>,
}

/// Named facts, the same in text and in JSON.
#[derive(Debug, Default)]
struct NamedFacts(Vec<(&'static str, Value)>);

/// The facts, and the cause that blocks a rotation.
struct Findings {
    facts: NamedFacts,
    /// With its finding in words.
    failure: Option<(Advice, String)>,
}

/// Why the key is of no use.
struct Unread {
    error: String,
    cause: &'static Cause,
}

/// Reads the state, then the key, then the evidence. What is known without one of the latter is
/// reported without it.
///
/// # Errors
/// When the state cannot be used.
pub fn gather(
    config: &Config,
    command: RotationCommand,
    evidence: Option<Asked<'_>>,
    asker: Asker<'_>,
    now: SystemTime,
) -> Result<Outcome<Rotation>, StateError> {
    let stored = config.state().load()?;
    let read = read(config);
    let mut found = Findings {
        facts: NamedFacts::default(),
        failure: None,
    };
    found.metadata(config, stored.document.as_ref(), &read, asker);
    found.files(&stored);
    let profile = read.as_ref().ok();
    if stored.anchor == CheckpointStatus::Absent {
        found.bootstrap(config, profile, asker);
    }
    let registry = stored.document.as_ref().map(|it| &**it.registry());
    let promotion = registry.and_then(Registry::pending);
    let promotion = promotion.map(|pending| Promotion::of(&pending.bookkeeping, config, now));
    found.rotation(registry, profile, promotion.as_ref());

    let judgement = evidence.map(|asked| judge(config, asked, registry, profile, asker));
    if command == RotationCommand::Verify {
        let confidence = judgement.as_ref().map_or("limited", Judgement::confidence);
        found.add("confidence", confidence);
    }
    let Findings { facts, failure } = found;
    let members = Rotation {
        facts,
        rewriting: None,
    };
    let mut outcome = Outcome::new(command.command(), now, members);
    outcome.identify(&config.fingerprint());
    outcome.picture = picture::history(registry, profile, config.rotation.activation_delay);

    let has_evidence = judgement.is_some();
    match judgement {
        Some(judgement) => {
            outcome.conclude(judgement.verdict, judgement.exit, judgement.headline);
            outcome.add_checks(judgement.checks);
            match judgement.exit {
                // Nothing is at stake.
                Exit::Success => outcome.add_actions(&judgement.advice),
                _ => outcome.add_cause(&judgement.advice),
            }
            outcome.add_limitations(judgement.limitations);
            outcome.result.rewriting = Some(judgement.row);
            outcome.picture.extend(&judgement.picture);
        }
        None => {
            let state = RotationState::of(registry);
            let (verdict, headline) = stage(registry, profile, promotion.as_ref());
            outcome.conclude(verdict, Exit::Success, headline);
            if state == RotationState::Pending && failure.is_none() {
                outcome.add_cause(&asker.advise(&PROMOTION_PENDING, &Vec::new()));
            }
            let open = (command == RotationCommand::Verify).then_some(LIMITATION);
            outcome.add_limitations(open);
        }
    }

    // Blockers of a rotation, or of a first state, come before the objects to rewrite.
    if let Some((advice, message)) = failure {
        let (verdict, headline) = match has_evidence {
            true => (outcome.verdict(), outcome.headline().to_owned()),
            false => ("failed", advice.headline.clone()),
        };
        outcome.conclude(verdict, Exit::CheckFailed, headline);
        outcome.set_found(message);
        outcome.set_cause(&advice);
        outcome.add_actions(&advice);
    }
    outcome.add_tables(outcome.result.tables());
    Ok(outcome)
}

/// Verdict and headline without evidence.
fn stage(
    registry: Option<&Registry>,
    profile: Option<&KeyProfile>,
    promotion: Option<&Promotion>,
) -> (&'static str, String) {
    let state = RotationState::of(registry).as_str();
    let Some(registry) = registry else {
        return (state, MAY_BOOTSTRAP.to_owned());
    };
    let active = registry.active().version();
    match (
        registry.pending(),
        promotion,
        profile.map(KeyProfile::latest),
    ) {
        (Some(pending), Some(promotion), _) => {
            let version = pending.key.version();
            let headline = format!(
                "this node encrypts with version {active}, and version {version} waits for its \
                 promotion: {promotion}"
            );
            (state, headline)
        }
        (_, _, Some(latest)) if latest > active => {
            let headline = format!(
                "this node encrypts with version {active}, and has not observed version {latest} \
                 yet"
            );
            (NOT_OBSERVED, headline)
        }
        _ => {
            let headline =
                format!("this node encrypts with version {active}, and no rotation is under way");
            (state, headline)
        }
    }
}

/// Progress of a pending version.
struct Promotion {
    observations: u64,
    required: u64,
    /// An estimate: a restart of the provider restarts the delay.
    expected: Option<Timestamp>,
    overdue: bool,
}

impl Promotion {
    fn of(pending: &Bookkeeping, config: &Config, now: SystemTime) -> Self {
        let rotation = &config.rotation;
        let required = u64::from(rotation.required_observations.get());
        let observations = pending
            .stable_observation_count()
            .map_or(0, NonZeroU64::get);
        let now = Timestamp::try_from(now).unwrap_or_default();
        let stable = pending.promotes_after(rotation.activation_delay);
        let expected = match stable.filter(|_| pending.is_stable(rotation.required_observations)) {
            Some(second) => second.try_into().ok(),
            None => {
                let missing = u32::try_from(required.saturating_sub(observations));
                let probes = config
                    .status
                    .probe_interval
                    .saturating_mul(missing.unwrap_or(1));
                let wait = probes.saturating_add(rotation.activation_delay).as_secs();
                i64::try_from(wait)
                    .ok()
                    .and_then(|wait| now.as_second().checked_add(wait))
            }
        };
        let expected = expected.and_then(|second| Timestamp::from_second(second).ok());
        Self {
            observations,
            required,
            expected,
            overdue: expected.is_some_and(|expected| expected < now),
        }
    }
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            observations,
            required,
            expected,
            overdue,
        } = self;
        write!(f, "{observations} of {required} observations")?;
        match expected {
            Some(time) if *overdue => write!(f, ", due since {time}"),
            Some(time) => write!(f, ", expected at {time}"),
            None => Ok(()),
        }
    }
}

impl Rotation {
    /// Whether this node encrypts with the newest version of the key.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let version = |wanted| {
            let mut facts = self.facts.0.iter();
            facts.find_map(|(name, value)| (*name == wanted).then(|| value.as_u64())?)
        };
        let active = version("activeTransitVersion");
        active.is_some() && active == version("latestTransitVersion")
    }

    /// Whether the running etcd was read as a whole.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        let mut facts = self.facts.0.iter();
        facts.any(|(name, value)| *name == "confidence" && value == "proven")
    }

    fn tables(&self) -> Vec<Table> {
        let mut facts = Table::new("this node", ["fact", "value"]);
        for (name, value) in &self.facts.0 {
            match value {
                Value::String(text) => facts.facts(name, [text]),
                value => facts.facts(name, [value]),
            }
        }
        let mut tables = vec![facts];
        tables.extend(self.rewriting.iter().flat_map(RewritingRow::tables));
        tables
    }
}

impl Findings {
    fn metadata(
        &mut self,
        config: &Config,
        document: Option<&Document>,
        read: &Result<KeyProfile, Unread>,
        asker: Asker<'_>,
    ) {
        let rules = RotationRules {
            required_observations: config.rotation.required_observations,
            reject_version_rollback: config.rotation.reject_version_rollback,
        };
        let unread = match (read, document) {
            (Err(unread), _) => Some((unread.error.clone(), unread.cause, Values::new())),
            // The next probe of the provider would refuse it for the same reason.
            (Ok(profile), Some(document)) => discover(document, profile, &rules, 0)
                .err()
                .map(|refused| (one_line(&refused), of_rotation(&refused), lowest(&refused))),
            (Ok(_), None) => None,
        };
        let Some((error, cause, values)) = unread else {
            self.add("transitMetadataStatus", "pass");
            return;
        };
        self.add("transitMetadataStatus", "fail");
        self.add("transitMetadataError", error.as_str());
        self.failure = Some((asker.advise(cause, &values), error));
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

    fn bootstrap(&mut self, config: &Config, profile: Option<&KeyProfile>, asker: Asker<'_>) {
        let reason = match profile.map(|it| may_bootstrap(it, &config.scope, &config.key)) {
            None => Err("it depends on the key, whose metadata could not be read".to_owned()),
            Some(Ok(())) => Ok(MAY_BOOTSTRAP.to_owned()),
            Some(Err(denied)) => Err(denied.to_string()),
        };
        self.add("stateBootstrapEligible", reason.is_ok());
        if let (Err(reason), None) = (&reason, &self.failure) {
            self.failure = Some((asker.advise(&state::LOST, &Vec::new()), reason.clone()));
        }
        let (Ok(reason) | Err(reason)) = reason;
        self.add("stateBootstrapReason", reason);
    }

    fn rotation(
        &mut self,
        registry: Option<&Registry>,
        profile: Option<&KeyProfile>,
        promotion: Option<&Promotion>,
    ) {
        let active = registry.map(Registry::active);
        self.add("rotationState", RotationState::of(registry).as_str());
        self.add_if("activeKeyIdHash", active.map(|it| it.id_hash().as_str()));
        self.add_if("activeTransitVersion", active.map(|it| it.version().get()));
        self.add_if("latestTransitVersion", profile.map(|it| it.latest().get()));
        let Some(pending) = registry.and_then(Registry::pending) else {
            return;
        };
        self.add("pendingKeyIdHash", pending.key.id_hash().as_str());
        self.add("pendingTransitVersion", pending.key.version().get());
        if let Some(promotion) = promotion {
            self.add("pendingStableObservationCount", promotion.observations);
            self.add("pendingRequiredObservationCount", promotion.required);
            let expected = promotion.expected.map(|time| time.to_string());
            self.add_if("pendingPromotesAfter", expected);
        }
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

impl RotationCommand {
    fn command(self) -> &'static str {
        match self {
            Self::Plan => "rotation-plan",
            Self::Verify => "verify-rotation",
        }
    }
}

/// What the evidence shows. The state alone tells the versions as well as the key does, if the key
/// could not be read.
fn judge(
    config: &Config,
    asked: Asked<'_>,
    registry: Option<&Registry>,
    profile: Option<&KeyProfile>,
    asker: Asker<'_>,
) -> Judgement {
    let claims = registry.map(|it| VersionClaims::of_registry(OWN_STATE, it));
    let lineage = KeyResolver::new(
        Arc::new(KeyScope::new(config.scope.clone())),
        profile.map_or(LiveKey::Unknown, |it| LiveKey::Listed(it.clone())),
        claims,
    );
    match asked.read(&lineage) {
        Ok(sources) => Judgement::of(Facts {
            sources: &sources,
            registry,
            profile,
            provider: config.scope.provider_name.as_str(),
            asker,
        }),
        Err(error) => Judgement::unread(&error, asker),
    }
}

/// The key, or why it is of no use.
fn read(config: &Config) -> Result<KeyProfile, Unread> {
    connection::ask(config, async |openbao| {
        read_profile(&openbao.session, &openbao.transit, &config.key).await
    })
    .map_err(|error: ConnectionError| Unread {
        error: one_line(&error),
        cause: &node::MISCONFIGURED,
    })?
    .map_err(|error| Unread {
        error: one_line(&error),
        cause: cause_of(&error),
    })
}

fn cause_of(error: &KeyReadError) -> &'static Cause {
    match error {
        KeyReadError::UpsertRead { source, .. } | KeyReadError::Read { source, .. } => {
            openbao::of_call(source)
        }
        KeyReadError::UpsertAllowed { .. } | KeyReadError::Profile(_) => &key::UNUSABLE,
    }
}

fn lowest(refused: &RotationRefused) -> Values {
    let lowest = lowest_hidden(refused).map(|version| ("lowest", version));
    lowest.into_iter().collect()
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
const FACTS: [(&str, &str); 22] = [
    ("transitMetadataStatus", "string"),
    ("transitMetadataError", "string"),
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
    ("pendingRequiredObservationCount", "integer"),
    ("pendingPromotesAfter", "string"),
    ("confidence", "string"),
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
