//! Loads reference data of all symbols, which routers give events as a part of their context.

use futures_util::{StreamExt, TryStreamExt, stream};
use std::future::ready;
use tickwire_core::event::key;
use tickwire_node::bucket::Bucket;
use tickwire_node::names::REFERENCE_BUCKET;
use tickwire_node::nats::Nats;

use super::draw::{SYMBOLS, symbol};
use super::injector::InjectError;
use tickwire_command::args::NatsArgs;

/// How many entries are written at the same time.
const TOGETHER: usize = 32;

/// The sectors of the symbols.
const SECTORS: [&str; 4] = ["Technology", "Energy", "Financials", "Health Care"];

/// Loads it into a cluster that has a router.
pub(crate) async fn load(nats_url: &str) -> Result<(), InjectError> {
    let config = NatsArgs::at(nats_url).load()?;
    let nats = Nats::connect(&config.nats, "reference", "bench").await?;
    let bucket = &Bucket::open(&nats, REFERENCE_BUCKET).await?;
    let writes =
        (0..SYMBOLS).map(|number| async move { bucket.put(&key::encode(&symbol(number)), entry(number)).await });
    stream::iter(writes).buffer_unordered(TOGETHER).try_for_each(|_| ready(Ok(()))).await?;
    Ok(nats.close().await?)
}

/// The entry of a symbol, as `tickwire reference load` writes it.
fn entry(number: u32) -> Vec<u8> {
    let sector = SECTORS[number as usize % SECTORS.len()];
    serde_json::json!({ "sector": sector, "sector_strength": 0.5 }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickwire_core::context::ReferenceEntry;

    #[test]
    fn entries_are_read_by_routers() {
        for number in 0..4 {
            let entry: ReferenceEntry = serde_json::from_slice(&entry(number)).unwrap();
            assert_eq!((entry.sector.as_str(), entry.sector_strength), (SECTORS[number as usize], Some(0.5)));
        }
    }
}
