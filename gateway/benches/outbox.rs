//! The cost of an outbox per event: a quiet session that gets each event at once, a busy one with forty events in a
//! window, and a slow one that must shed load.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tickwire_core::event::{Event, Priority, Timestamp};
use tickwire_core::ids::{Millis, Partition, Seq};
use tickwire_core::protocol::Encoding;
use tickwire_gateway::delivery::Delivery;
use tickwire_gateway::limits::account::Account;
use tickwire_gateway::outbox::{Frame, Outbox, OutboxLimits, Target};
use tickwire_testkit::blank_event;

const TARGET: Target = Target { subscription: 1, window_ms: 100, alert: false };

const LIMITS: OutboxLimits = OutboxLimits { bytes: 64 * 1024, critical: 20, lanes: true, patience: u64::MAX };

fn delivery(seq: u64) -> Arc<Delivery> {
    let mut data = serde_json::Map::new();
    data.insert("note".into(), "x".repeat(200).into());
    let event = Event {
        key: format!("S{}", seq % 500).into(),
        priority: [Priority::Low, Priority::Medium, Priority::High][seq as usize % 3],
        data,
        ..blank_event()
    };
    Arc::new(Delivery::new(event, Partition((seq % 32) as u16), Seq(seq)))
}

fn outbox(criterion: &mut Criterion) {
    let events: Vec<Arc<Delivery>> = (1..=400).map(delivery).collect();
    let mut group = criterion.benchmark_group("outbox");
    for (name, batch) in [("sent at once", 1), ("a window of 40", 40)] {
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(name, |bencher| {
            let (mut outbox, mut account, mut frame) = (Outbox::new(), Account::new(0), Frame::default());
            bencher.iter(|| {
                for delivery in &events[..batch] {
                    black_box(outbox.push(Millis(0), delivery, TARGET, Encoding::Json, &LIMITS));
                }
                let times = (Millis(0), || Timestamp(0));
                outbox.compose(times, (&mut account, |_, _| true), Encoding::Json, &LIMITS, &mut frame);
                assert_eq!(frame.events.len(), batch);
            });
        });
    }
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("a reader that stalls", |bencher| {
        let mut dropped = Vec::new();
        bencher.iter(|| {
            let mut outbox = Outbox::new();
            for delivery in &events {
                outbox.push(Millis(0), delivery, TARGET, Encoding::Json, &LIMITS);
                if outbox.bytes() > LIMITS.bytes {
                    black_box(outbox.shed_load(Millis(0), Encoding::Json, &LIMITS, &mut dropped));
                }
            }
            dropped.clear();
        });
    });
    group.finish();
}

criterion_group!(benches, outbox);
criterion_main!(benches);
