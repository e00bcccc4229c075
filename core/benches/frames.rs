//! Encoding for clients: an event's object, encoded once per encoding, and the array of objects that is a frame,
//! written for every session.

mod made;

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::{Encoding, encode_event, write_array};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let event = made::event(Seq(7));
    let mut group = criterion.benchmark_group("frames");
    for encoding in Encoding::ALL {
        let object = |seq| encode_event(&event, Partition(3), Seq(seq), encoding);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("an event's object, {encoding:?}"), |bench| bench.iter(|| object(black_box(7))));
        for count in [1, 40] {
            let objects: Vec<Vec<u8>> = (1..=count).map(object).collect();
            let mut frame = Vec::new();
            group.throughput(Throughput::Elements(count));
            group.bench_function(format!("an array of {count}, {encoding:?}"), |bench| {
                bench.iter(|| {
                    frame.clear();
                    write_array(&mut frame, black_box(&objects).iter().map(Vec::as_slice), encoding);
                    frame.len()
                });
            });
        }
    }
    group.finish();
    criterion.final_summary();
}
