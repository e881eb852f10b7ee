//! Real nodes and real liars in one process: the cells of `tests/overlay` in their long form, one JSON object a line.
//!
//! ```sh
//! cargo run --release --example overlay-arena -- liars --attack all --trials 1000 --seed 1
//! cargo run --release --example overlay-arena -- first --attack ghosts --trials 4000
//! cargo run --release --example overlay-arena -- hot --nodes 30 --rate 5000 --clients 150 --seconds 10
//! cargo run --release --example overlay-arena -- killed | compare | liars --plain | ...
//! ```

#[path = "../../tests/overlay/arena/mod.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod arena;
#[path = "../../tests/overlay/harness.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod harness;

use arena::cells::Readers;
use arena::conspiracy::Attack;
use arena::{Ground, Plan, cells, hot, knock, plain_cells};
use clap::{Parser, ValueEnum};
use peerline::wire::Genesis;
use std::time::Duration;

#[derive(Clone, Copy, ValueEnum)]
enum Cell {
    /// No attack.
    Peaceful,
    /// No attack, ours and then plain kad.
    Compare,
    /// A share of the nodes lie.
    Liars,
    /// One liar among the three first contacts of a newcomer.
    First,
    /// 30 % killed in one moment.
    Killed,
    /// One key of one real node is asked for at a fixed rate.
    Hot,
    /// What callers of a hostile record send to the host that it names: run by `bench/knock`.
    Knock,
    /// An arena for other processes; told on stdin what to do (`bench/attacks-live`).
    Stand,
}

#[derive(Parser)]
struct Options {
    cell: Cell,
    /// Nodes, liars included.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Of them; 30 in the cell `liars`, 1 in `first`.
    #[arg(long)]
    liars: Option<usize>,
    /// drop, misroute, ghosts, poison, stale, selective or all.
    #[arg(long, default_value = "all")]
    attack: String,
    #[arg(long, default_value_t = 20)]
    users: usize,
    #[arg(long, default_value_t = 400)]
    trials: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Newcomers that look up at the same time.
    #[arg(long, default_value_t = 3)]
    at_once: usize,
    /// Lookups of each newcomer, one after the other.
    #[arg(long, default_value_t = 1)]
    each: usize,
    /// Instead of a newcomer for each lookup, so many readers that stay (`liars`).
    #[arg(long, default_value_t = 0)]
    standing: usize,
    /// All nodes in one /24.
    #[arg(long)]
    one_subnet: bool,
    /// As the nodes' own option, for `stand`.
    #[arg(long, default_value = "arena")]
    test_overlay: String,
    /// `hot`: clients, their questions together each second, and for how many seconds.
    #[arg(long, default_value_t = 150)]
    clients: usize,
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Plain libp2p-kad instead.
    #[arg(long)]
    plain: bool,
}

fn main() {
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let attacks: Vec<Attack> =
        Attack::ALL.into_iter().filter(|a| options.attack == "all" || a.name().contains(&options.attack)).collect();
    assert!(!attacks.is_empty(), "no attack is named so");
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let plan = |liars: usize, mortal: usize, attack| Plan {
        honest: options.nodes - liars,
        liars,
        mortal,
        attack,
        ground: if options.one_subnet { Ground::OneSubnet } else { Ground::Spread },
        seed: options.seed,
        overlay: match options.cell {
            Cell::Stand => Genesis::private(options.test_overlay.as_bytes()).id(),
            _ => harness::OVERLAY,
        },
    };
    let Options { users, trials, .. } = options;
    let readers = match options.standing {
        0 => Readers::New { at_once: options.at_once, each: options.each },
        count => Readers::Stay(count),
    };
    match options.cell {
        Cell::Peaceful | Cell::Compare => {
            let plan = plan(0, 0, Attack::Drop);
            if !options.plain {
                println!("{}", runtime().block_on(cells::peaceful(plan, users, trials)).0);
            }
            if options.plain || matches!(options.cell, Cell::Compare) {
                println!("{}", runtime().block_on(plain_cells::among(plan, users, trials, false)));
            }
        }
        Cell::Stand => {
            let plan = plan(options.liars.unwrap_or(0), 0, attacks[0]);
            runtime().block_on(arena::stand::run(plan));
        }
        Cell::Hot => {
            let heat = hot::Heat {
                nodes: options.nodes,
                clients: options.clients,
                rate: options.rate,
                life: Duration::from_secs(options.seconds),
                overlay: harness::OVERLAY,
                seed: options.seed,
            };
            println!("{}", runtime().block_on(hot::run(heat)));
        }
        Cell::Knock => println!("{}", runtime().block_on(knock::run(trials, options.at_once))),
        Cell::Killed => {
            let plan = plan(0, options.nodes * 3 / 10, Attack::Drop);
            println!("{}", runtime().block_on(cells::killed_at_once(plan, users, trials, options.at_once)).0);
        }
        Cell::Liars | Cell::First => {
            let first = matches!(options.cell, Cell::First);
            for attack in attacks {
                let liars = options.liars.unwrap_or(if first { 1 } else { options.nodes * 3 / 10 });
                let plan = plan(liars, 0, attack);
                let figures = runtime().block_on(async {
                    match (options.plain, first) {
                        (false, false) => cells::liars_among(plan, users, trials, readers).await.0,
                        (false, true) => cells::one_liar_first(plan, users, trials, options.at_once).await.0,
                        (true, false) => plain_cells::among(plan, users, trials, true).await,
                        (true, true) => plain_cells::one_liar_first(plan, users, trials).await,
                    }
                });
                println!("{figures}");
            }
        }
    }
}
