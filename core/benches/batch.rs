//! Decoding of a batch as in the gateway: first the batch with its events as bytes, then each event.

mod made;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use tickwire_core::coverage::section::{Batch, Section};
use tickwire_core::event::Event;
use tickwire_core::ids::{EpochId, NodeId, NodeRef, Nonce, Partition, Revision, Seq};
use tickwire_core::wire;

/// The number of partitions with events in a batch, if there are enough events.
const SECTIONS: u64 = 32;

/// A batch with this many events, spread over the partitions.
fn batch(events: u64) -> Vec<u8> {
    let section = |partition: u64| Section::<Bytes> {
        partition: Partition(partition as u16),
        revision: Revision(7),
        prev: Seq(0),
        through: Seq(events),
        events: (1..=events)
            .filter(|seq| seq % SECTIONS == partition)
            .map(|seq| (Seq(seq), rmp_serde::to_vec(&made::event(Seq(seq))).expect("events can be written").into()))
            .collect(),
    };
    let batch = Batch {
        router: NodeRef { id: NodeId::new("router-1").expect("a node's name"), nonce: Nonce(1) },
        epoch_id: EpochId(1),
        sections: (0..SECTIONS).map(section).filter(|section| !section.events.is_empty()).collect(),
        before: Seq(0),
    };
    wire::encode(&batch).expect("batches can be written")
}

fn decode(bytes: &[u8]) -> Vec<(Seq, Event)> {
    let batch: Batch<Bytes> = wire::decode(bytes).expect("it was written above");
    let events = batch.sections.into_iter().flat_map(|section| section.events);
    events.map(|(seq, bytes)| (seq, rmp_serde::from_slice(&bytes).expect("it was written above"))).collect()
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("decode a batch");
    for events in [1, 4, 40, 400] {
        let bytes = batch(events);
        group.throughput(Throughput::Elements(events));
        group.bench_function(format!("its sections alone, {events} events"), |bench| {
            bench.iter(|| wire::decode::<Batch<Bytes>>(black_box(&bytes)).expect("it was written above"));
        });
        group.bench_function(format!("with every event, {events} events"), |bench| {
            bench.iter(|| decode(black_box(&bytes)));
        });
    }
    group.finish();
    criterion.final_summary();
}
