//! The macro of the declarations.

/// Declares the metrics of a crate in one place, and a list of all of them. The texts are the name, the meaning, and
/// what to do when the metric moves:
///
/// ```
/// fn reasons() -> Vec<&'static str> {
///     vec!["closed", "expired"]
/// }
/// tickwire_node::metrics! {
///     ALL:
///     counter BATCHES = "tickwire_example_batches_total", "Batches that came", "Nothing: it is the load.";
///     counter DROPPED by "reason" of reasons =
///         "tickwire_example_dropped_total", "Events dropped, by reason", "Find out why clients are slow.";
///     gauge SESSIONS = "tickwire_example_sessions", "Sessions that are here", "Add nodes.";
///     histogram SECONDS = "tickwire_example_seconds", "How long it took", "Add processor.";
/// }
/// tickwire_node::metrics::describe(ALL);
/// BATCHES.increment(1);
/// DROPPED.with("closed").increment(2);
/// # SESSIONS.set(1.0);
/// # SECONDS.record(1.0);
/// ```
///
/// A metric `by "reason" of reasons` is shown from 0 on for each value that the function `reasons` gives. Values that
/// are not known beforehand are `within` a bound, which a text describes.
#[macro_export]
macro_rules! metrics {
    ($list:ident: $(
        $kind:ident $name:ident $(by $label:literal $(within $bound:literal)? $(of $shown:path)?)? =
            $text:literal, $help:literal, $advice:literal;
    )+) => {
        $($crate::metric! {
            $kind $name $(by $label $(within $bound)? $(of $shown)?)? = $text, $help, $advice
        })+

        #[doc = "All of these."]
        pub(crate) static $list: &[&dyn $crate::metrics::Metric] = &[$(&$name),+];
    };
}

/// One line of [`metrics!`](crate::metrics!).
#[doc(hidden)]
#[macro_export]
macro_rules! metric {
    (counter $name:ident = $($texts:tt)+) => { $crate::metric! { @plain Counter $name $($texts)+ } };
    (gauge $name:ident = $($texts:tt)+) => { $crate::metric! { @plain Gauge $name $($texts)+ } };
    (histogram $name:ident = $($texts:tt)+) => { $crate::metric! { @plain Histogram $name $($texts)+ } };
    (counter $name:ident by $($rest:tt)+) => { $crate::metric! { @by CounterBy $name $($rest)+ } };
    (gauge $name:ident by $($rest:tt)+) => { $crate::metric! { @by GaugeBy $name $($rest)+ } };
    (info $name:ident by $($rest:tt)+) => { $crate::metric! { @by Info $name $($rest)+ } };
    (@by $type:ident $name:ident $label:literal of $shown:path = $($texts:tt)+) => {
        $crate::metric! { @labelled $type $name [$label, $shown, ""] $($texts)+ }
    };
    (@by $type:ident $name:ident $label:literal within $bound:literal = $($texts:tt)+) => {
        $crate::metric! { @labelled $type $name [$label, ::std::vec::Vec::new, $bound] $($texts)+ }
    };
    (@plain $type:ident $name:ident $text:literal, $help:literal, $advice:literal) => {
        #[doc = $help]
        pub(crate) static $name: $crate::metrics::$type = $crate::metrics::$type::new([$text, $help, $advice]);
    };
    (@labelled $type:ident $name:ident [$label:literal, $shown:path, $bound:literal]
        $text:literal, $help:literal, $advice:literal) => {
        #[doc = $help]
        pub(crate) static $name: $crate::metrics::$type = $crate::metrics::$type::new(
            [$text, $help, $advice],
            $crate::metrics::LabelValues { name: $label, known: $shown, bound: $bound },
        );
    };
}
