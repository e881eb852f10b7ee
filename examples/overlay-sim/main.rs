//! The laboratory of the overlay: worlds of 10^2 to 10^5 servers in virtual time, attackers that know everything, and
//! the product's own engine, table, validator and ledger in the middle (`docs/measurements/overlay.md`).
//!
//! ```text
//! cargo run --release --example overlay-sim -- --nodes 10000 --hostile 0.3 --attack worst --strategy peerline \
//!     --trials 1000 --seed 1 --json
//! ```

mod ablations;
mod cell;
mod delays;
mod e4;
mod experiments;
mod iterators;
mod kad;
mod known;
mod newcomer;
mod ours;
mod rng;
mod scene;
mod sorted;
mod stats;
#[cfg(test)]
mod tests;
mod user;
mod world;

use cell::{Cell, Strategy, Summary};
use clap::Parser;
use peerline::dht::WalkConfig;
use scene::{Attack, Setting};
use serde_json::{Value, json};
use std::time::Instant;
use world::{Cluster, Plan};

#[derive(Clone, Debug, Parser)]
#[command(about = "Publishes and looks up in simulated overlays with liars in them, and counts what is found")]
struct Options {
    /// Servers that are there.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Share of them that is hostile.
    #[arg(long, default_value_t = 0.0)]
    hostile: f64,
    /// drop, misroute, ghosts, address-poison, stale, forge, selective, none, or worst: all of them with `--screen`
    /// trials, then the two worst with all.
    #[arg(long, default_value = "worst")]
    attack: String,
    /// kad, kad-disjoint, skademlia, peerline, or all.
    #[arg(long, default_value = "peerline")]
    strategy: String,
    #[arg(long, default_value_t = 1_000)]
    trials: usize,
    /// Trials that tell which attacks are the worst two.
    #[arg(long, default_value_t = 300)]
    screen: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Hostile servers at the user's keys, for each key.
    #[arg(long, default_value_t = 0)]
    chosen_ids: usize,
    /// How many of the four keys have them.
    #[arg(long, default_value_t = 4)]
    keys: usize,
    /// Distinct /24s of the chosen ids; 0: one for each.
    #[arg(long, default_value_t = 0)]
    subnets: usize,
    /// How many of these /24s share a /16.
    #[arg(long, default_value_t = 4)]
    per_wide: usize,
    /// Hostile servers came within the last six hours.
    #[arg(long, conflicts_with = "early")]
    late: bool,
    /// Hostile servers are as old as the honest ones (the default).
    #[arg(long)]
    early: bool,
    /// Share of table entries that are dead.
    #[arg(long, default_value_t = 0.1)]
    dead: f64,
    /// Share of holders that leave between put and get.
    #[arg(long, default_value_t = 0.1)]
    churn: f64,
    /// Median round trip between honest servers, milliseconds.
    #[arg(long, default_value_t = 60.0)]
    rtt_ms: f64,
    /// How many times more often than their share hostile servers are in tables.
    #[arg(long, default_value_t = 1.0)]
    bias: f64,
    /// Servers of its table to which a node has connections when it begins.
    #[arg(long, default_value_t = 0)]
    connected: usize,
    /// Networks know their autonomous system.
    #[arg(long)]
    asmap: bool,
    /// churn, partition, clock, ledger, rest, e4 or ablations, instead of a cell.
    #[arg(long)]
    experiment: Option<String>,
    /// Paths of a walk (ours).
    #[arg(long)]
    paths: Option<usize>,
    /// Those that a lookup begins with (ours).
    #[arg(long)]
    first: Option<usize>,
    /// Half of the chosen ids lie nearest to the keys, the others anywhere within so many regions around them.
    #[arg(long, default_value_t = 1.0)]
    spread: f64,
    /// At distances with no more servers than this a table was offered everybody, at others 40 of them.
    #[arg(long, default_value_t = 96)]
    complete: usize,
    /// Members of a region that are contacted, and in a crowd (ours).
    #[arg(long)]
    quota: Option<usize>,
    #[arg(long)]
    alarm_quota: Option<usize>,
    /// Of the four regions so many keep records (ours).
    #[arg(long, default_value_t = 4)]
    regions: usize,
    /// Trials that share a world.
    #[arg(long, default_value_t = 1_000)]
    per_world: usize,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Said in the JSON: which version ran.
    #[arg(long, default_value = "")]
    commit: String,
    /// One JSON value on stdout instead of lines.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(name) = &options.experiment {
        let value = experiments::run(name, &options.cell(Strategy::Peerline), &options.commit)?;
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let attacks = attacks(&options)?;
    let strategies = match options.strategy.as_str() {
        "all" => Strategy::ALL.to_vec(),
        name => vec![clap::ValueEnum::from_str(name, true).map_err(anyhow::Error::msg)?],
    };
    let mut cells = Vec::new();
    for strategy in strategies {
        let began = Instant::now();
        let summaries = options.cell(strategy).worst(&attacks);
        let value = report(&options, strategy, &summaries, began.elapsed().as_secs_f64());
        if !options.json {
            print(&value);
        }
        cells.push(value);
    }
    if options.json {
        let value = if cells.len() == 1 { cells.remove(0) } else { Value::Array(cells) };
        println!("{}", serde_json::to_string_pretty(&value)?);
    }
    Ok(())
}

fn attacks(options: &Options) -> anyhow::Result<Vec<Attack>> {
    Ok(match options.attack.as_str() {
        "worst" if options.hostile > 0.0 || options.chosen_ids > 0 => Attack::ALL.to_vec(),
        "worst" => vec![Attack::None],
        name => vec![clap::ValueEnum::from_str(name, true).map_err(anyhow::Error::msg)?],
    })
}

impl Options {
    fn cell(&self, strategy: Strategy) -> Cell {
        let mut config = WalkConfig::default();
        config.paths = self.paths.unwrap_or(config.paths);
        config.first = self.first.unwrap_or(config.first).min(config.paths);
        config.quota = self.quota.unwrap_or(config.quota);
        config.alarm_quota = self.alarm_quota.unwrap_or(config.alarm_quota);
        let cluster = (self.chosen_ids > 0).then_some(Cluster {
            per_key: self.chosen_ids,
            keys: self.keys.clamp(1, 4),
            subnets: self.subnets,
            spread: self.spread,
            per_wide: self.per_wide,
            early: !self.late,
        });
        Cell {
            plan: Plan {
                nodes: self.nodes,
                hostile: self.hostile,
                dead: self.dead,
                early: !self.late,
                asmap: self.asmap,
                complete: self.complete,
            },
            setting: Setting {
                attack: Attack::None,
                cluster,
                churn: self.churn,
                rtt: self.rtt_ms,
                bias: self.bias,
                connected: self.connected,
                session: None,
                partition: false,
                skewed: 0.0,
                regions: self.regions,
            },
            strategy,
            config,
            trials: self.trials,
            screen: self.screen,
            per_world: self.per_world,
            seed: self.seed,
            threads: self.threads,
        }
    }
}

/// The cell as JSON: what was asked for, each attack, the worst of them.
fn report(options: &Options, strategy: Strategy, summaries: &[Summary], seconds: f64) -> Value {
    let worst = summaries.first().map(Summary::json);
    let trials: usize = summaries.iter().map(|summary| summary.trials.len()).sum();
    json!({
        "strategy": strategy.name(),
        "commit": options.commit,
        "nodes": options.nodes,
        "hostile": options.hostile,
        "chosen_ids_per_key": options.chosen_ids,
        "keys": if options.chosen_ids > 0 { options.keys } else { 0 },
        "subnets": options.subnets,
        "per_wide": options.per_wide,
        "age": if options.late { "late" } else { "early" },
        "dead": options.dead,
        "churn": options.churn,
        "rtt_ms": options.rtt_ms,
        "bias": options.bias,
        "connected": options.connected,
        "asmap": options.asmap,
        "seed": options.seed,
        "worst": worst,
        "attacks": summaries.iter().map(Summary::json).collect::<Vec<_>>(),
        "seconds": (seconds * 10.0).round() / 10.0,
        "trials_per_second": (trials as f64 / seconds).round(),
    })
}

fn print(cell: &Value) {
    println!(
        "{}  n={} hostile={} chosen={}x{} seed={}",
        cell["strategy"].as_str().unwrap_or_default(),
        cell["nodes"],
        cell["hostile"],
        cell["chosen_ids_per_key"],
        cell["keys"],
        cell["seed"]
    );
    for attack in cell["attacks"].as_array().into_iter().flatten() {
        println!(
            "  {:14} {:7.3} %  {} of {} failed  stale {}  wrong {}  p50 {} ms  p99 {} ms  copies {} seen {}  \
             messages {} + {}  cpu {} us",
            attack["attack"].as_str().unwrap_or_default(),
            attack["success"].as_f64().unwrap_or_default() * 100.0,
            attack["failures"],
            attack["trials"],
            attack["stale_accepted"],
            attack["wrong_identity"],
            attack["newest_ms"]["p50"],
            attack["newest_ms"]["p99"],
            attack["honest_copies"],
            attack["copies_seen"],
            attack["publish"]["messages"],
            attack["lookup"]["messages"],
            attack["lookup"]["engine_cpu_us"],
        );
    }
    println!("  {} s, {} trials/s", cell["seconds"], cell["trials_per_second"]);
}
