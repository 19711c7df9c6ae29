//! `compare-nodes`: do the control-plane nodes agree, and may the next one be taken?

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tokio::runtime;

use super::{Context, Failure, OutputFlag, exit::Exit, inspect_state::state_path};
use crate::{
    clock::{Clock as _, SystemClock},
    config::positive_duration,
    nodes::{self, Node, NodeName, Window, report::NodesReport},
    plain_http::HttpUrl,
};

/// Compare control-plane nodes, and say whether it is safe to go on with the next one
///
/// Each node has a name and is seen through its metrics, its socket or its state file, in any mix;
/// metrics show most. Changes nothing and needs no credentials. With --config, nodes must have the
/// identity of that configuration, otherwise that of the majority. Exit code 0 when the nodes agree,
/// 4 when they do not or a rotation is under way, 5 when that could not be established.
#[derive(Debug, Args)]
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
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = positive_duration)]
    timeout: Duration,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let (timeout, output) = (self.timeout, self.output.output);
        let nodes = self.nodes()?;
        nodes::require_comparable(&nodes)?;
        let configured = match &context.flags.config {
            Some(_) => Some(context.load()?.config.fingerprint()),
            None => None,
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let seen = runtime
            .map_err(Failure::Runtime)?
            .block_on(nodes::look(&nodes, timeout));
        let report = NodesReport::new(&nodes, &seen, configured.as_ref(), SystemClock.now());
        output.write(&report, context.out)?;
        Ok(report.exit())
    }

    fn nodes(self) -> Result<Vec<Node>, Failure> {
        let mut nodes = self.metrics;
        for (name, path) in self.socket {
            let window = Window::Socket(path);
            nodes.push(Node { name, window });
        }
        for (name, path) in self.state {
            let window = Window::State(state_path(path)?);
            nodes.push(Node { name, window });
        }
        Ok(nodes)
    }
}

fn metrics(text: &str) -> Result<Node, &'static str> {
    let (name, url) = named(text)?;
    let window = Window::Metrics(HttpUrl::parse(url)?);
    Ok(Node { name, window })
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
