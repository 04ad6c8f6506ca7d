//! Which signals are exported, and how. `otel.rs` has checked the format of each variable; this file combines them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use strum::{Display, EnumString};

use super::{ConfigErrors, otel::Variables, setting::resolve};

const DEFAULT_TIMEOUT_MS: u64 = 10_000;
const PROMETHEUS_HOST: &str = "OTEL_EXPORTER_PROMETHEUS_HOST";
const DEFAULT_PROMETHEUS_HOST: &str = "localhost";
const PROMETHEUS_PORT: &str = "OTEL_EXPORTER_PROMETHEUS_PORT";
const DEFAULT_PROMETHEUS_PORT: u16 = 9464;

#[derive(Debug, Clone, Copy, Default)]
pub struct ExporterSettings {
    /// `None` if traces are not exported.
    pub traces: Option<OtlpSettings>,
    /// `None` if metrics are not pushed.
    pub metrics: Option<OtlpSettings>,
    /// The address where Prometheus pulls metrics; `None` if it does not.
    pub prometheus: Option<SocketAddr>,
}

/// How one signal is pushed. The exporter reads the collector's address, the headers and the compression from the
/// variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtlpSettings {
    pub protocol: OtlpProtocol,
    /// Of one export.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Display, EnumString)]
pub enum OtlpProtocol {
    #[default]
    #[strum(serialize = "grpc")]
    Grpc,
    #[strum(serialize = "http/protobuf")]
    HttpProtobuf,
    #[strum(serialize = "http/json")]
    HttpJson,
}

impl ExporterSettings {
    /// Follows the specification, except that a signal is pushed only if an endpoint is set.
    pub(super) fn from_variables(variables: &Variables, errors: &mut ConfigErrors) -> Self {
        if variables.get("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Self::default();
        }
        let has_exporter = |signal: &str, exporter: &str| {
            let exporters = variables.get(&format!("OTEL_{signal}_EXPORTER")).unwrap_or("otlp");
            exporters.split(',').any(|listed| listed.trim() == exporter)
        };
        let mut otlp = |signal: &str| has_exporter(signal, "otlp").then(|| otlp(signal, variables, errors)).flatten();
        let (traces, metrics) = (otlp("TRACES"), otlp("METRICS"));
        let prometheus = has_exporter("METRICS", "prometheus").then(|| prometheus(variables, errors)).flatten();
        Self { traces, metrics, prometheus }
    }
}

/// Returns `None` if no endpoint is set.
fn otlp(signal: &str, variables: &Variables, errors: &mut ConfigErrors) -> Option<OtlpSettings> {
    let variable = |name: &str| {
        let names = [format!("OTEL_EXPORTER_OTLP_{signal}_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| variables.get(&name).map(|value| (name, value)))
    };
    let (endpoint_name, endpoint) = variable("ENDPOINT")?;
    // Invalid values are reported already.
    let protocol = variable("PROTOCOL").and_then(|(_, text)| text.parse().ok()).unwrap_or_default();
    let timeout = variable("TIMEOUT").and_then(|(_, text)| text.parse().ok()).unwrap_or(DEFAULT_TIMEOUT_MS);
    if protocol != OtlpProtocol::Grpc && !endpoint.contains("://") {
        errors.add(endpoint_name, format!("must begin with http:// or https://, because the protocol is {protocol}"));
    }
    Some(OtlpSettings { protocol, timeout: Duration::from_millis(timeout) })
}

/// Returns `None` if the address is invalid.
fn prometheus(variables: &Variables, errors: &mut ConfigErrors) -> Option<SocketAddr> {
    let host = variables.get(PROMETHEUS_HOST).unwrap_or(DEFAULT_PROMETHEUS_HOST);
    let port = variables.get(PROMETHEUS_PORT).map_or(Some(DEFAULT_PROMETHEUS_PORT), |text| text.parse().ok())?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    errors.check(PROMETHEUS_HOST, resolve(&format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> (ExporterSettings, String) {
        let mut errors = ConfigErrors::default();
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let settings = ExporterSettings::from_variables(&Variables(variables), &mut errors);
        (settings, errors.to_string())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn a_signal_is_pushed_if_it_has_an_endpoint_and_is_not_disabled() {
        let pushed = |variables: &[(&str, &str)]| {
            let exporters = settings(variables).0;
            (exporters.traces.is_some(), exporters.metrics.is_some())
        };
        assert_eq!(pushed(&[]), (false, false));
        assert_eq!(pushed(&[ENDPOINT]), (true, true));
        assert_eq!(pushed(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://collector:4317")]), (false, true));
        assert_eq!(pushed(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), (false, true));
        assert_eq!(pushed(&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")]), (true, false));
        assert_eq!(pushed(&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "prometheus")]), (true, false));
        assert_eq!(pushed(&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")]), (false, false));
    }

    #[test]
    fn protocol_and_timeout_of_a_signal_override_those_of_all() {
        let (exporters, errors) = settings(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "200"),
        ]);
        let timeout = Duration::from_millis(DEFAULT_TIMEOUT_MS);
        assert_eq!(exporters.traces, Some(OtlpSettings { protocol: OtlpProtocol::Grpc, timeout }));
        let timeout = Duration::from_millis(200);
        assert_eq!(exporters.metrics, Some(OtlpSettings { protocol: OtlpProtocol::HttpJson, timeout }));
        assert!(!errors.contains("OTEL_"), "{errors}");
    }

    #[test]
    fn only_grpc_accepts_an_endpoint_without_a_scheme() {
        let endpoint = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317");
        assert!(!settings(&[endpoint]).1.contains("OTEL_"));
        let (_, errors) = settings(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
        assert!(errors.contains("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must begin with http:// or https://"), "{errors}");
    }

    #[test]
    fn prometheus_pulls_from_localhost_unless_another_address_is_set() {
        let address = |variables: &[(&str, &str)]| settings(variables).0.prometheus.map(|address| address.to_string());
        let prometheus = ("OTEL_METRICS_EXPORTER", "otlp, prometheus");
        assert_eq!(address(&[ENDPOINT]), None);
        assert_eq!(address(&[prometheus]).as_deref(), Some("127.0.0.1:9464"));
        let (host, port) = ((PROMETHEUS_HOST, "::"), (PROMETHEUS_PORT, "0"));
        assert_eq!(address(&[prometheus, host, port]).as_deref(), Some("[::]:0"));
        assert_eq!(address(&[prometheus, ("OTEL_SDK_DISABLED", "true")]), None);
        let (both, _) = settings(&[ENDPOINT, prometheus]);
        assert!(both.metrics.is_some() && both.prometheus.is_some());
    }
}
