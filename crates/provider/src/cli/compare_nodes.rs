//! `compare-nodes`: whether the control-plane nodes agree, so that work may continue with the next.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use kms_node::{
    advice::Site,
    clock::{Clock as _, SystemClock},
    config::Config,
    duration::parse_positive,
    plain_http::HttpUrl,
    report::outcome::Outcome,
};
use kms_operator::nodes::{self, Node, NodeName, Source, report};

use super::{
    Context, Exit, Failure, PageFlags, inspect_state::state_path, repeat::RepeatFlags, runtime,
};

/// Compare control-plane nodes, and say whether it is safe to continue with the next
///
/// Each node has a name and is seen through its metrics, its socket or its state file, in any mix;
/// metrics show most. Changes nothing and needs no credentials. With --config, nodes must have the
/// identity of that configuration, otherwise that of the majority. Exit code 0 when the nodes agree,
/// 4 when they do not or a rotation is under way, 5 when that could not be established.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("one_page").args(["watch", "html"]))]
pub(super) struct Options {
    /// A node by the metrics of its provider, such as node-a=http://127.0.0.1:8081
    #[arg(long, value_name = "NAME=URL", value_parser = metrics)]
    metrics: Vec<Node>,
    /// A node by the socket of its provider
    #[arg(long, value_name = "NAME=PATH", value_parser = named_path)]
    socket: Vec<(NodeName, PathBuf)>,
    /// A node by its state file; the checkpoint is FILE.checkpoint
    #[arg(long, value_name = "NAME=FILE", value_parser = named_path)]
    state: Vec<(NodeName, PathBuf)>,
    /// For each node; all are asked at once
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_positive)]
    timeout: Duration,
    #[command(flatten)]
    repeat: RepeatFlags,
    #[command(flatten)]
    output: PageFlags,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let (timeout, nodes) = (self.timeout, self.nodes()?);
        nodes::require_comparable(&nodes)?;
        self.output.require_new()?;
        let loaded = match &context.flags.config {
            Some(_) => Some(context.load()?),
            None => None,
        };
        let config = loaded.as_ref().map(|loaded| &loaded.config);
        let runtime = runtime()?;
        let configured = config.map(Config::fingerprint);
        let path = context.flags.config_path(context.environment);
        let again = context.again();
        let once = |_: &mut Context<'_>| {
            let seen = runtime.block_on(nodes::look(&nodes, timeout));
            Ok(report::outcome(
                &nodes,
                &seen,
                configured.as_ref(),
                &Site::new(&path, config),
                &again,
                SystemClock.now(),
            ))
        };
        let is_good = |outcome: &Outcome<_>| outcome.exit() == Exit::Success;
        let outcome = self
            .repeat
            .run(&self.output.output, context, once, is_good)?;
        self.output.write_page(&outcome)
    }

    fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let mut nodes = self.metrics.clone();
        for (name, path) in &self.socket {
            nodes.push(Node {
                name: name.clone(),
                source: Source::Socket(path.clone()),
            });
        }
        for (name, path) in &self.state {
            nodes.push(Node {
                name: name.clone(),
                source: Source::State(state_path(path.clone())?),
            });
        }
        Ok(nodes)
    }
}

fn metrics(text: &str) -> Result<Node, &'static str> {
    let (name, url) = named(text)?;
    let source = Source::Metrics(HttpUrl::parse(url)?);
    Ok(Node { name, source })
}

fn named_path(text: &str) -> Result<(NodeName, PathBuf), &'static str> {
    let (name, path) = named(text)?;
    match path.is_empty() {
        true => Err("there is no path after '='"),
        false => Ok((name, path.into())),
    }
}

fn named(text: &str) -> Result<(NodeName, &str), &'static str> {
    let (name, place) = text
        .split_once('=')
        .ok_or("must be NAME=PLACE, such as node-a=http://127.0.0.1:8081")?;
    Ok((NodeName::parse(name)?, place))
}
