//! The report of a run: the table, the plots, and the generated part of `docs/benchmarks.md`.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use plotters::prelude::{
    BLUE, ChartBuilder, Circle, EmptyElement, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement,
    PointSeries, RED, RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::{
    cpu_time::CpuTime,
    doc_markers::write_between_marks,
    growth::{Growth, MAX_RATIO},
    load::Measurement,
    workloads::{CallersResult, Goal, WorkloadResult},
};

pub struct Report {
    pub postgres_version: String,
    pub results: Vec<WorkloadResult>,
    pub by_callers: Vec<CallersResult>,
    pub by_tenants: Growth,
    pub by_packages: Growth,
    pub idle_kib: Option<u64>,
    pub peak_kib: Option<u64>,
    pub start_ms: f64,
}

pub fn print(results: &[WorkloadResult]) {
    println!("{}", workload_table(results));
}

fn workload_table(results: &[WorkloadResult]) -> String {
    let mut table =
        "| work | rate | p50 | p99 | CPU of the service | of Postgres | baseline | its result | ratio | goal |\n\
         |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for result in results {
        let WorkloadResult { workload, baseline, baseline_result, ratio, .. } = result;
        let Measurement { rate, p50_ms, p99_ms, .. } = result.measurement;
        let cpu = result.cpu.map_or(["?".to_owned(), "?".to_owned()], |CpuTime { service_us, postgres_us }| {
            [service_us, postgres_us].map(|us| format!("{us:.0} µs"))
        });
        let verdict = |is_met| if is_met { "met" } else { "not met" };
        let comparison = match result.goal {
            Goal::MinRate(goal) => {
                format!("{baseline_result:.0}/s | {ratio:.2} | ≥ {goal:.1}: {}", verdict(*ratio >= goal))
            }
            Goal::MaxLatency(goal) => {
                format!("{baseline_result:.2} ms | {ratio:.2} | ≤ {goal:.1}: {}", verdict(*ratio <= goal))
            }
            Goal::None if baseline.is_empty() => " | | ".to_owned(),
            Goal::None => format!("{baseline_result:.0}/s | {ratio:.2} | "),
        };
        let latency = format!("{p50_ms:.2} ms | {p99_ms:.2} ms");
        writeln!(table, "| {workload} | {rate:.0}/s | {latency} | {} | {baseline} | {comparison} |", cpu.join(" | "))
            .unwrap();
    }
    table
}

pub fn print_growth(growth: &Growth, unit: &str) {
    println!("{}", growth_table(growth, unit));
}

/// Median latencies by size, and the ratio of the greatest to the first.
fn growth_table(growth: &Growth, unit: &str) -> String {
    let sizes: Vec<String> = growth.sizes.iter().map(|size| format!("{size} {unit}")).collect();
    let (sizes, columns) = (sizes.join(" | "), "---|".repeat(growth.sizes.len()));
    let mut table = format!("| p50 of one caller | {sizes} | greatest ÷ first | goal |\n|---|{columns}---|---|\n");
    for (name, latencies) in &growth.calls {
        let ratio = latencies.iter().fold(0.0, |greatest: f64, &latency| greatest.max(latency)) / latencies[0];
        let latencies: Vec<String> = latencies.iter().map(|latency| format!("{latency:.2} ms")).collect();
        let verdict = if ratio <= MAX_RATIO { "met" } else { "not met" };
        writeln!(table, "| {name} | {} | {ratio:.2} | ≤ {MAX_RATIO}: {verdict} |", latencies.join(" | ")).unwrap();
    }
    table
}

impl Report {
    pub fn write(&self) {
        let by_callers = |value: fn(&CallersResult) -> f64| {
            self.by_callers.iter().map(|result| (result.callers as f64, value(result))).collect()
        };
        plot("rate", "Tenants created per second, by callers", &[("", BLUE, by_callers(|at| at.created.rate))]);
        let (p50, p99) = (by_callers(|at| at.created.p50_ms), by_callers(|at| at.created.p99_ms));
        plot("latency", "Latency of a create in ms, by callers", &[("p50", BLUE, p50), ("p99", RED, p99)]);
        let memory = by_callers(|at| at.resident_kib.unwrap_or_default() as f64 / 1_024.0);
        plot("memory", "Memory of the server in MiB, by callers that create", &[("", BLUE, memory)]);
        let (create, list) = (self.by_tenants.points("create"), self.by_tenants.points("list"));
        let growth = [("create", BLUE, create), ("list 50", RED, list)];
        plot("growth", "p50 of one caller in ms, by existing tenants", &growth);
        write_between_marks("docs/benchmarks.md", &self.text());
    }

    fn text(&self) -> String {
        let mib = |kib: Option<u64>| kib.map_or("?".to_owned(), |kib| format!("{:.1} MiB", kib as f64 / 1_024.0));
        let (machine, postgres_version) = (machine(), &self.postgres_version);
        let workloads = workload_table(&self.results);
        let growth =
            [growth_table(&self.by_tenants, "tenants"), growth_table(&self.by_packages, "packages")].join("\n");
        let (idle, peak, start_ms) = (mib(self.idle_kib), mib(self.peak_kib), self.start_ms);
        format!(
            "{machine}Postgres {postgres_version}, fsync on.\n\n{workloads}\n\
             ![rate](benchmarks-rate.svg)\n\n![latency](benchmarks-latency.svg)\n\n{growth}\n\
             ![growth](benchmarks-growth.svg)\n\n\
             The idle server takes {idle} (goal: 30 MiB). Its peak with up to 128 callers that create was {peak} \
             (goal: 80 MiB, with 64 callers). The time from the start of a process to SERVING is {start_ms:.0} ms \
             (goal: 150 ms).\n\n![memory](benchmarks-memory.svg)\n"
        )
    }
}

/// Describes the machine and the build.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("an unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let rustc = String::from_utf8_lossy(&rustc);
    let kernel = read("/proc/sys/kernel/osrelease");
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{cores} cores of {model}, Linux {}. Turnkey {version}, release build by {}, logging on. ",
        kernel.trim(),
        rustc.trim()
    )
}

/// A name, a color and points.
type Series = (&'static str, RGBColor, Vec<(f64, f64)>);

fn plot(name: &str, title: &str, series: &[Series]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/benchmarks-{name}.svg"));
    let points = || series.iter().flat_map(|(_, _, points)| points);
    let (from, to) = (points().map(|p| p.0).fold(f64::MAX, f64::min), points().map(|p| p.0).fold(0.0, f64::max));
    let top = points().map(|p| p.1).fold(0.0, f64::max) * 1.1;
    let area = SVGBackend::new(&path, (640, 320)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .margin_right(40)
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d((from..to * 1.01).log_scale(), 0.0..top)
        .unwrap();
    chart.configure_mesh().light_line_style(WHITE).x_label_formatter(&|x| format!("{x:.0}")).draw().unwrap();
    for (name, color, points) in series {
        let color = *color;
        let line = chart.draw_series(LineSeries::new(points.clone(), &color)).unwrap();
        if !name.is_empty() {
            line.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        }
        let dots = PointSeries::of_element(points.clone(), 3, &color, &|at, size, style| {
            EmptyElement::at(at) + Circle::new((0, 0), size, style)
        });
        chart.draw_series(dots).unwrap();
    }
    if series.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .border_style(RGBColor(200, 200, 200))
            .draw()
            .unwrap();
    }
    area.present().unwrap();
}
