//! The commands on the pair that an incident leaves, each compared with the truth.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use kms_node::kms_api::generated::DecryptRequest;
use serde_json::Value;
use testkit::{files, openbao::binary, schema::assert_published};

use super::{
    oracle::{Truth, needed},
    scenario::{Incident, OpenBaoState, StateLoss},
    world::{Entry, KeyFacts, Object, Stored, World, beside, copy_file, nth},
};
use crate::{
    node::{Finished, program},
    provider::Provider,
};

/// Statuses of objects that a rebuild cannot make readable, and need not.
const UNREADABLE: [&str; 8] = [
    "not_decrypted",
    "annotation_mismatch",
    "annotation_invalid",
    "key_id_malformed",
    "creation_time_mismatch",
    "creation_time_mismatch",
    "newer_than_latest",
    "damaged",
];

/// A verdict that differs from the truth.
pub(super) struct Wrong {
    /// The difference, in a sentence.
    pub(super) what: String,
    /// The key and the output of the command.
    pub(super) told: String,
}

/// One command's answer.
struct Told {
    code: Option<i32>,
    report: Value,
    text: String,
}

impl Told {
    fn verdict(&self) -> &str {
        self.report["verdict"].as_str().unwrap_or_default()
    }

    /// The verdict's sentence.
    fn headline(&self) -> &str {
        let headline = self.report["headline"].as_str();
        headline
            .or(self.report["summary"].as_str())
            .unwrap_or_default()
    }

    fn says_untested(&self) -> bool {
        self.text.contains("untested") || self.text.contains("unproven")
    }
}

/// The pair, the node beside it, and everything that was found wrong so far.
pub(super) struct Verdicts<'s> {
    world: World<'s>,
    stored: Stored,
    etcd: PathBuf,
    openbao: Option<PathBuf>,
    record: Option<PathBuf>,
    peer: Option<PathBuf>,
    key: Option<KeyFacts>,
    /// As things are.
    now: Truth,
    wrong: Vec<Wrong>,
}

impl<'s> Verdicts<'s> {
    /// Every verdict that is wrong.
    pub(super) async fn of(world: World<'s>, incident: &Incident) -> Vec<Wrong> {
        let mut round = Self::begin(world, incident).await;
        let pair = round.verify("verify-backup");
        let triage = round.triage();
        let recorded = round.record_backup();
        if pair.verdict() == "compatible" {
            let now = round.now.clone();
            round.serve_the_pair("compatible", &pair, &now).await;
        }
        let drill = incident.drill.then(|| round.drill()).flatten();
        let node = &round.world.node;
        let files = [node.state_file(), node.checkpoint()].map(|file| (fs::read(&file).ok(), file));
        round.recover().await;
        for (content, file) in files {
            if let Some(content) = content {
                files::replace(&file, &content, 0o640);
            }
        }

        let after_remedies = round.carry_out(&pair).await;
        round.world.lower_all().await;
        let after = Truth::of(&round.world, &round.stored).await;
        round.judge_pair("verify-backup", &pair, &after_remedies, &after);
        if let Some(drill) = &drill {
            round.judge_drill(drill, &pair, &after);
        }
        let present = Truth::of(&round.world, &round.world.stored).await;
        round.judge_triage(&triage, &after, &present);
        round.judge_record(recorded.as_ref());

        // Nothing is hidden any more, so everything can be decided.
        round.now = after.clone();
        round.key = round.world.key().await;
        let lowered = round.verify("verify-backup of the lowered key");
        round.judge_pair("verify-backup of the lowered key", &lowered, &after, &after);
        round.wrong
    }

    async fn begin(mut world: World<'s>, incident: &Incident) -> Self {
        world.save_etcd();
        let chosen = incident.etcd.unwrap_or(usize::MAX);
        let backups = world.etcd_backups.len();
        let backup = match incident.etcd {
            Some(_) => &world.etcd_backups[chosen % backups],
            None => world.etcd_backups.last().unwrap(),
        };
        let (etcd, stored) = (backup.file.clone(), backup.stored.clone());
        let mut openbao = None;
        match incident.openbao {
            OpenBaoState::Snapshot(index) if !world.openbao_backups.is_empty() => {
                let backup = nth(world.openbao_backups.iter(), index).unwrap();
                world.restore_openbao(backup).await;
                openbao = Some(backup.file.clone());
            }
            OpenBaoState::Now | OpenBaoState::Snapshot(_) => {}
            OpenBaoState::KeyDeleted => world.delete_key().await,
        }
        if incident.drill && openbao.is_none() {
            world.save_openbao().await;
            openbao = world.openbao_backups.last().map(|it| it.file.clone());
        }
        let (state, checkpoint) = (world.node.state_file(), world.node.checkpoint());
        let lose = |file: &Path| drop(fs::remove_file(file));
        match incident.state {
            StateLoss::Nothing => {}
            StateLoss::Both => world.forget_state(),
            StateLoss::State => lose(&state),
            StateLoss::Checkpoint => lose(&checkpoint),
            StateLoss::RolledBack(index) => {
                if let Some(older) = nth(world.states.iter(), index) {
                    copy_file(older, &state);
                    copy_file(&beside(older), &checkpoint);
                }
            }
        }
        let chosen = |from: &[PathBuf], index: Option<usize>| nth(from.iter(), index?).cloned();
        Self {
            record: chosen(&world.records, incident.record),
            peer: chosen(&world.states, incident.peer),
            key: world.key().await,
            now: Truth::of(&world, &stored).await,
            world,
            stored,
            etcd,
            openbao,
            wrong: Vec::new(),
        }
    }

    fn wrong(&mut self, what: &str, told: &Told) {
        self.wrong.push(Wrong {
            what: what.to_owned(),
            told: format!("{:?}\n{}", self.key, told.text),
        });
    }

    /// Runs it in both forms.
    fn run(&mut self, arguments: &[&str]) -> Told {
        let text = self.world.node.run(arguments);
        let json = self
            .world
            .node
            .run(&[arguments, &["--output", "json"]].concat());
        self.told(arguments[0], text.out, json)
    }

    fn told(&mut self, command: &str, text: String, json: Finished) -> Told {
        let report: Value = serde_json::from_str(&json.out).unwrap_or_default();
        if report.is_object() {
            assert_published(&report);
        }
        let told = Told {
            code: json.code,
            report,
            text: format!("{text}{}", json.err),
        };
        if !matches!(json.code, Some(0 | 4 | 5)) {
            self.wrong(&format!("{command} ended with {:?}", json.code), &told);
        }
        told
    }

    /// The options of the evidence.
    fn evidence(&self) -> Vec<String> {
        let mut options = option("--etcd-snapshot", &self.etcd).to_vec();
        if let Some(record) = &self.record {
            options.extend(option("--record", record));
        }
        options
    }

    fn with_evidence(&mut self, command: &[&str]) -> Told {
        let evidence = self.evidence();
        let evidence: Vec<_> = evidence.iter().map(String::as_str).collect();
        self.run(&[command, &evidence].concat())
    }

    fn verify(&mut self, what: &str) -> Told {
        let told = self.with_evidence(&["verify-backup", "--depth", "data"]);
        let code = match told.verdict() {
            "compatible" => 0,
            "compatible-after" | "incompatible" => 4,
            "inconclusive" => 5,
            _ => {
                self.wrong(&format!("{what} has no verdict"), &told);
                return told;
            }
        };
        if told.code != Some(code) {
            self.wrong(&format!("{what} ends with {:?}", told.code), &told);
        }
        told
    }

    fn triage(&mut self) -> Told {
        self.with_evidence(&["triage"])
    }

    /// Of a node whose state does not allow a record there is none.
    fn record_backup(&mut self) -> Option<Told> {
        let file = self.world.new_file("record.json");
        let etcd = self.etcd.clone();
        let (out, etcd) = (file.to_str().unwrap(), etcd.to_str().unwrap());
        let of = ["record-backup", "--out", out, "--etcd-snapshot", etcd];
        let done = self
            .world
            .node
            .run(&[&of[..], &["--output", "json"]].concat());
        let text = done.out.clone();
        file.exists()
            .then(|| self.told("record-backup", text, done))
    }

    /// With backups of the kind that an operator has.
    fn drill(&mut self) -> Option<Told> {
        let openbao = self.openbao.clone()?;
        let share = self.world.new_file("share");
        self.world.openbao.write_unseal_key(&share);
        let work = self.world.new_file("work");
        files::directory(&work, 0o700);
        let mut options = self.evidence();
        options.extend(option("--openbao-snapshot", &openbao));
        options.extend(option("--unseal-key-file", &share));
        options.extend(option("--work-dir", &work));
        options.extend(option("--bao", binary().path()));
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let of = [&["drill", "--output", "json"], &options[..]].concat();
        let done = self.world.node.run(&of);
        let text = done.out.clone();
        Some(self.told("drill", text, done))
    }

    /// A compatible pair in service: a provider that starts on it reads everything.
    async fn serve_the_pair(&mut self, what: &str, pair: &Told, truth: &Truth) {
        if !self.world.node.state_file().exists() {
            return;
        }
        let mut provider = self.world.node.spawn();
        if !provider.ready_or_ended().await {
            return;
        }
        let refused = refused(&provider, &self.stored, &truth.decrypted).await;
        let _stopped = provider.stop().await;
        if !refused.is_empty() {
            self.wrong(
                &format!("{what}, but the provider refuses {refused:?}"),
                pair,
            );
        }
    }

    /// A lost state comes back from the evidence, and the node then reads what can be read.
    async fn recover(&mut self) {
        self.world.forget_state();
        let mut options = self.evidence();
        if let Some(peer) = &self.peer {
            options.extend(option("--peer-state", peer));
        }
        let told = loop {
            let arguments: Vec<_> = options.iter().map(String::as_str).collect();
            let told = self.run(&[&["recover-state"], &arguments[..]].concat());
            if told.verdict() == "planned" {
                break told;
            }
            // As an operator who follows the next step, where that is true.
            match self.answer(&told).filter(|it| !options.contains(&it[0])) {
                Some(answer) => options.extend(answer),
                None => {
                    self.judge_refusal(&told);
                    return;
                }
            }
        };
        let hash = told.report["planHash"].as_str().unwrap().to_owned();
        let arguments: Vec<_> = options.iter().map(String::as_str).collect();
        let apply = ["--apply", "--expected-plan-hash", &hash, "--output", "json"];
        let applied = [&["recover-state"], &arguments[..], &apply].concat();
        let applied = self.world.node.run(&applied);
        if applied.code != Some(0) {
            let what = format!(
                "an accepted plan is not applied: {}{}",
                applied.out, applied.err
            );
            self.wrong(&what, &told);
            return;
        }
        let active = told.report["state"]["activeTransitVersion"]
            .as_u64()
            .unwrap();
        let readable = self.readable_versions();
        if readable.last().is_some_and(|&version| version > active) {
            let what = format!("version {active} undercuts objects of {readable:?}");
            self.wrong(&what, &told);
        }
        let mut provider = self.world.node.spawn();
        if provider.ready_or_ended().await {
            let refused = refused(&provider, &self.stored, &self.now.decrypted).await;
            let _stopped = provider.stop().await;
            if !refused.is_empty() {
                self.wrong(
                    &format!("recovered, and the provider refuses {refused:?}"),
                    &told,
                );
            }
        } else {
            let ended = provider.ended().await;
            self.wrong(&format!("recovered, and serve ends: {}", ended.err), &told);
        }
        self.world.forget_state();
    }

    /// The option that a refusal asks for, if it is true.
    fn answer(&self, told: &Told) -> Option<[String; 2]> {
        let number = |option: &str| {
            let (_, rest) = told.text.split_once(&format!("{option} "))?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        };
        const UNREADABLE: &str = "--accept-unreadable";
        const UNPROMOTED: &str = "--assume-not-promoted";
        if let Some(count) = number(UNREADABLE) {
            return Some([UNREADABLE.to_owned(), count.to_string()]);
        }
        let version = number(UNPROMOTED)?;
        let written = needed(&self.world.stored).into_keys().next_back();
        let unpromoted = self.world.active < version && written.is_none_or(|it| it < version);
        unpromoted.then(|| [UNPROMOTED.to_owned(), version.to_string()])
    }

    /// Single unreadable objects must not stand in the way of a node.
    fn judge_refusal(&mut self, told: &Told) {
        let refusals = told.report["refusals"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let codes: BTreeSet<_> = refusals
            .iter()
            .filter_map(|it| it["code"].as_str())
            .collect();
        // A record or a peer that knows more than OpenBao is another matter.
        let etcd = self.etcd.display().to_string();
        let of_etcd = |refusal: &Value| refusal["evidence"][0] == etcd.as_str();
        let of_objects = refusals.iter().all(of_etcd);
        let unreadable = codes.iter().all(|code| UNREADABLE.contains(code));
        if !codes.is_empty() && of_objects && unreadable && !self.now.decrypted.is_empty() {
            let what = format!("recover-state refuses for {codes:?} and names no way out");
            self.wrong(&what, told);
        }
    }

    /// Runs the commands that the report prints. Returns what can be read then.
    async fn carry_out(&mut self, pair: &Told) -> Truth {
        let remedies = pair.report["remedies"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for remedy in &remedies {
            let command = remedy["command"].as_str().unwrap();
            let done = match command.strip_prefix("bao-kms-provider ") {
                Some(arguments) => self.plan_and_apply(arguments),
                None => self.as_administrator(command),
            };
            if done.code != Some(0) {
                let what = format!("the remedy {command:?} fails: {}{}", done.out, done.err);
                self.wrong(&what, pair);
            }
        }
        if remedies.is_empty() {
            return self.now.clone();
        }
        let after = Truth::of(&self.world, &self.stored).await;
        if pair.verdict() == "compatible-after" {
            self.serve_the_pair("compatible after the remedies", pair, &after)
                .await;
        }
        after
    }

    /// A command for an administrator of OpenBao, in a shell.
    fn as_administrator(&self, command: &str) -> Finished {
        let programs = self.world.directory.path().join("bin");
        if !programs.exists() {
            fs::create_dir(&programs).unwrap();
            symlink(
                binary().path().canonicalize().unwrap(),
                programs.join("bao"),
            )
            .unwrap();
        }
        let openbao = self.world.openbao;
        let done = Command::new("/bin/sh")
            .args(["-c", command])
            .env_clear()
            .env("PATH", &programs)
            .env("HOME", self.world.directory.path())
            .env("BAO_ADDR", openbao.endpoint().address.to_string())
            .env("BAO_CACERT", openbao.ca_file())
            .env("BAO_TOKEN", openbao.secrets().root_token.expose())
            .output();
        done.unwrap().into()
    }

    /// A command that prints a plan first, and is carried out with the hash in it.
    fn plan_and_apply(&self, arguments: &str) -> Finished {
        let run = |more: &[&str]| -> Finished {
            let mut command = program();
            self.world.node.sockets.set_environment(&mut command);
            command.args(arguments.split(' ')).args(more);
            command.output().unwrap().into()
        };
        let plan = run(&["--output", "json"]);
        match serde_json::from_str::<Value>(&plan.out) {
            Ok(plan) => {
                let hash = plan["stateHash"].as_str().unwrap();
                run(&["--apply", "--expected-state-hash", hash])
            }
            Err(_) => plan,
        }
    }

    fn judge_pair(&mut self, what: &str, told: &Told, after_remedies: &Truth, after: &Truth) {
        let lost = after.lost();
        let hidden = self.hidden();
        let untested = hidden > 0 && told.says_untested();
        // Perhaps of another provider of the key, whose names nobody knows here.
        let rows = told.report["keyIds"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let elsewhere = rows.iter().filter(|row| row["status"] == "other_provider");
        let elsewhere = elsewhere
            .filter_map(|row| row["objects"].as_u64())
            .sum::<u64>();
        let all_open = |truth: &Truth| truth.lost() == 0;
        let etcd = &told.report["etcd"];
        let printed = etcd["lostObjects"].as_u64();
        let objects = etcd["objects"].as_u64();
        let problem = match told.verdict() {
            "compatible" if !all_open(&self.now) || self.now.objects == 0 => {
                Some(format!("{} objects do not open now", self.now.lost()))
            }
            "compatible-after" if !all_open(after_remedies) && !untested => Some(format!(
                "{} objects do not open after the remedies",
                after_remedies.lost()
            )),
            "incompatible" if lost == 0 => Some("nothing is lost".to_owned()),
            "incompatible" if hidden + elsewhere == 0 && printed != Some(after.lost_objects()) => {
                Some(format!(
                    "{} objects are lost, {printed:?} are said to be",
                    after.lost_objects()
                ))
            }
            "incompatible" if printed > Some(after.lost_objects()) => Some(format!(
                "no more than {} objects are lost, {printed:?} are said to be",
                after.lost_objects()
            )),
            "inconclusive"
                if hidden + elsewhere == 0 && self.now.objects + self.now.garbage > 0 =>
            {
                Some("everything can be decided".to_owned())
            }
            _ => None,
        };
        if let Some(problem) = problem {
            self.wrong(
                &format!("{what} is {}, but {problem}", told.verdict()),
                told,
            );
        }
        if objects != Some(self.now.objects) {
            let what = format!("{what} counts {objects:?} of {} objects", self.now.objects);
            self.wrong(&what, told);
        }
        self.require_no_contradiction(what, told, lost);
    }

    fn judge_drill(&mut self, drill: &Told, pair: &Told, after: &Truth) {
        // It lowers the limit in its copy, so nothing stays untested.
        let right = match drill.verdict() {
            "compatible-after" => pair.verdict() == "compatible-after" && after.lost() == 0,
            "incompatible" => after.lost() > 0,
            verdict => verdict == pair.verdict(),
        };
        if !right {
            let (drilled, verified, lost) = (drill.verdict(), pair.verdict(), after.lost());
            let what = format!("the drill says {drilled} of {lost} lost, verify-backup {verified}");
            self.wrong(&what, drill);
        }
        self.require_no_contradiction("drill", drill, after.lost());
    }

    /// `present` is what etcd holds now, of which the state of the node tells too.
    fn judge_triage(&mut self, told: &Told, after: &Truth, present: &Truth) {
        let lost = after.lost_deks();
        let impact = told.report["data"]["impact"].as_str().unwrap_or_default();
        let problem = match impact {
            "none_lost" => lost > 0,
            "lost_without_backup" => after.lost() + present.lost() == 0,
            "at_risk" | "unknown" => false,
            _ => true,
        };
        if problem {
            let what = format!("triage says {impact:?} of {lost} lost objects");
            self.wrong(&what, told);
        }
    }

    fn judge_record(&mut self, told: Option<&Told>) {
        let Some(told) = told else { return };
        let required = told.report["etcdSnapshot"]["requiredVersions"].as_array();
        let required = required.cloned().unwrap_or_default();
        let required: Vec<_> = required
            .iter()
            .map(|it| {
                (
                    it["transitVersion"].as_u64().unwrap(),
                    it["objects"].as_u64().unwrap(),
                )
            })
            .collect();
        let lost = self.now.lost_deks();
        let needed: Vec<_> = needed(&self.stored).into_iter().collect();
        let problem = match told.code {
            Some(0) if lost > 0 => Some(format!("{lost} objects do not decrypt")),
            Some(0) if required != needed => Some(format!("required is {needed:?}")),
            Some(4) if lost == 0 => Some("everything decrypts".to_owned()),
            Some(_) => {
                let listed: BTreeSet<_> = required.iter().map(|(version, _)| *version).collect();
                let readable = self.readable_versions();
                let all = readable.is_subset(&listed);
                (!all).then(|| format!("required are also {readable:?}"))
            }
            None => None,
        };
        if let Some(problem) = problem {
            self.wrong(&format!("record-backup, but {problem}"), told);
        }
    }

    /// No headline speaks of no loss where there is one.
    fn require_no_contradiction(&mut self, what: &str, told: &Told, lost: u64) {
        let claims = claims_no_loss(told.headline());
        if claims && (lost > 0 || told.verdict() == "incompatible") {
            self.wrong(
                &format!("{what} claims no loss, {lost} objects are lost"),
                told,
            );
        }
        let incompatible = told.verdict() == "incompatible";
        let none = incompatible
            && told
                .headline()
                .split("; ")
                .any(|it| it.starts_with("0 of "));
        if none {
            self.wrong(&format!("{what} contradicts itself"), told);
        }
    }

    /// Objects of versions that OpenBao has and neither lists nor uses.
    fn hidden(&self) -> u64 {
        let Some(key) = &self.key else { return 0 };
        let hidden = key.min_available..key.min_decryption;
        let needed = needed(&self.stored).into_iter();
        needed
            .filter(|(version, _)| hidden.contains(version))
            .map(|(_, objects)| objects)
            .sum()
    }

    fn readable_versions(&self) -> BTreeSet<u64> {
        let readable = self.now.decrypted.iter();
        readable
            .filter_map(|key| match &self.stored[key] {
                Entry::Object(object) => Some(object.version),
                Entry::Garbage | Entry::Foreign => None,
            })
            .collect()
    }
}

/// Whether it is said that nothing is lost, in whatever words of the reports.
fn claims_no_loss(text: &str) -> bool {
    [
        "no object is lost",
        "nothing is lost",
        "no data is lost",
        "none is lost",
    ]
    .iter()
    .any(|words| text.contains(words))
}

fn option(name: &str, value: &Path) -> [String; 2] {
    [name.to_owned(), value.display().to_string()]
}

/// Those of these objects that the provider does not decrypt.
async fn refused(provider: &Provider, stored: &Stored, keys: &BTreeSet<String>) -> Vec<String> {
    let mut refused = Vec::new();
    for key in keys {
        let Entry::Object(object) = &stored[key] else {
            continue;
        };
        if let Err(status) = provider.decrypt(request(object)).await {
            refused.push(format!("{key} of version {}: {status}", object.version));
        }
    }
    refused
}

fn request(object: &Object) -> DecryptRequest {
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let annotations = object.sealer.annotations.iter();
    DecryptRequest {
        ciphertext: bytes(&object.sealer.encrypted_source),
        uid: "test".to_owned(),
        key_id: object.sealer.key_id.clone(),
        annotations: annotations
            .map(|(name, value)| (name.clone(), bytes(value)))
            .collect(),
    }
}
