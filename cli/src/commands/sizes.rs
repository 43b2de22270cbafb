//! `crabbox sizes`: which machines a provider has, where, and what an hour of each costs.

use crabbox_host::Session;
use crabbox_kernel::error::Result;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::lease::BoxRequest;
use crabbox_schemas::plugin::{Offer, Price, QuoteResult};
use crabbox_schemas::view::SizesView;

use crate::context::Context;

/// List the machine types a provider has, with their prices
///
/// Nothing is leased. A name goes to `--type`; a class, where one is shown, to `--class`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox sizes --provider hetzner
  crabbox sizes --region ash --json")]
pub(crate) struct Args {
    /// Provider to ask
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only what can be had there
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Say what a box of this class would cost
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Say what exactly this machine type would cost
    #[arg(long = "type", value_name = "NAME")]
    machine_type: Option<String>,
    /// Say what it costs as `spot` or `on-demand`
    #[arg(long, value_name = "KIND")]
    market: Option<String>,
}

impl Args {
    /// Configuration keys the flags set.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let pairs = [
            ("class", &self.class),
            ("serverType", &self.machine_type),
            ("capacity.market", &self.market),
        ];
        pairs
            .iter()
            .filter_map(|(key, value)| Some((key.to_string(), value.as_ref()?.clone())))
            .collect()
    }
}

/// Asks, and shows the cheapest first.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let provider = ctx.choose_provider(None, args.provider.as_deref())?;
    let new = ctx.new_lease(&provider, false, None, false)?;
    let session = ctx.open_provider(&provider).await?;
    let asked = ask(&session, args.region.as_deref(), &new.request).await;
    session.close().await;
    let (mut sizes, regions, next) = asked?;
    sizes.sort_by_key(|offer| offer.price.as_ref().map_or(u64::MAX, |price| price.hourly_micros));
    if ctx.global.json {
        let (schema_version, region) = (SCHEMA_VERSION, args.region);
        let view = SizesView { schema_version, provider, region, sizes, regions, next };
        ctx.terminal.out_json(&view);
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = sizes.iter().map(row).collect();
    let head = ["TYPE", "CLASS", "CPUS", "MEMORY", "DISK", "ARCH", "AN HOUR", ""];
    ctx.terminal.table(&head, &rows);
    if !regions.is_empty() {
        let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
        ctx.terminal.err(&format!("regions: {}", names.join(", ")));
    }
    if let Some(next) = next {
        let cost = cost(&next.price);
        ctx.terminal.err(&format!("a new box begins with {}: {cost} an hour", next.server_type));
    }
    Ok(0)
}

type Answers = (Vec<Offer>, Vec<Offer>, Option<QuoteResult>);

async fn ask(session: &Session, region: Option<&str>, request: &BoxRequest) -> Result<Answers> {
    let sizes = session.sizes(region).await?;
    Ok((sizes, session.regions().await?, session.quote(request).await?))
}

fn row(offer: &Offer) -> Vec<String> {
    let gib = |mib: u64| format!("{} GiB", mib as f64 / 1024.0);
    vec![
        offer.name.clone(),
        offer.class.clone().unwrap_or_default(),
        offer.cpus.map(|cpus| cpus.to_string()).unwrap_or_default(),
        offer.memory_mib.map(gib).unwrap_or_default(),
        offer.disk_gib.map(|gib| format!("{gib} GiB")).unwrap_or_default(),
        offer.arch.clone().unwrap_or_default(),
        offer.price.as_ref().map(cost).unwrap_or_default(),
        offer.description.clone(),
    ]
}

/// Such as `0.0104 USD`, and how it was come by unless it is the list price.
fn cost(price: &Price) -> String {
    let basis = match price.basis.as_str() {
        "list" => String::new(),
        other => format!(" ({other})"),
    };
    format!("{:.4} {}{basis}", price.hourly_micros as f64 / 1e6, price.currency)
}
