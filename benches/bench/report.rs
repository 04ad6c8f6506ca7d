//! The table, the plots, and what `docs/benchmarks.md` says of the run.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use plotters::prelude::{
    BLUE, ChartBuilder, Circle, EmptyElement, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement,
    PointSeries, RED, RGBColor, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::{
    doc_markers::write_between_marks,
    load::Measured,
    workloads::{ByCallers, Goal, Row},
};

pub struct Report {
    /// Its version.
    pub postgres: String,
    pub rows: Vec<Row>,
    pub by_callers: Vec<ByCallers>,
    /// Creating, and listing.
    pub by_tenants: Vec<(u64, Measured, Measured)>,
    pub at_rest_kib: Option<u64>,
    pub under_load_kib: Option<u64>,
    pub start_ms: f64,
}

fn table(rows: &[Row]) -> String {
    let mut table =
        "| work | a second | p50 | p99 | against | the limit | ratio | goal | |\n|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for row in rows {
        let Measured { rate, p50_ms, p99_ms } = row.measured;
        let (limit, ratio) = (row.limit, row.ratio);
        let met = |is_met| if is_met { "met" } else { "not met" };
        let comparison = match row.goal {
            Goal::Rate(goal) => format!("{limit:.0} | {ratio:.2} | ≥ {goal:.1} | {}", met(ratio >= goal)),
            Goal::Latency(goal) => format!("{limit:.2} ms | {ratio:.2} | ≤ {goal:.1} | {}", met(ratio <= goal)),
            Goal::None if row.against.is_empty() => " | | |".to_owned(),
            Goal::None => format!("{limit:.0} | {ratio:.2} | |"),
        };
        let (work, against) = (row.work, row.against);
        writeln!(table, "| {work} | {rate:.0} | {p50_ms:.2} ms | {p99_ms:.2} ms | {against} | {comparison} |").unwrap();
    }
    table
}

pub fn print(rows: &[Row]) {
    println!("{}", table(rows));
}

impl Report {
    pub fn write(&self) {
        let of = |pick: fn(&ByCallers) -> f64| self.by_callers.iter().map(|at| (at.callers as f64, pick(at))).collect();
        plot("rate", "Tenants made a second, by callers", &[("", BLUE, of(|at| at.created.rate))]);
        let (p50, p99) = (of(|at| at.created.p50_ms), of(|at| at.created.p99_ms));
        plot("latency", "Latency of creating in ms, by callers", &[("p50", BLUE, p50), ("p99", RED, p99)]);
        let memory = of(|at| at.resident_kib.unwrap_or_default() as f64 / 1_024.0);
        plot("memory", "Memory of the server in MiB, by callers that create", &[("", BLUE, memory)]);
        let created = self.by_tenants.iter().map(|(n, created, _)| (*n as f64, created.p50_ms)).collect();
        let listed = self.by_tenants.iter().map(|(n, _, listed)| (*n as f64, listed.p50_ms)).collect();
        let growth = [("create", BLUE, created), ("list 50", RED, listed)];
        plot("growth", "p50 in ms of one caller, by tenants that are there", &growth);
        write_between_marks("docs/benchmarks.md", &self.text());
    }

    fn text(&self) -> String {
        let mib = |kib: Option<u64>| kib.map_or("?".to_owned(), |kib| format!("{:.1} MiB", kib as f64 / 1_024.0));
        let mut growth =
            "| tenants | create p50 | to the first | list p50 | to the first |\n|---|---|---|---|---|\n".to_owned();
        let first = self.by_tenants.first().map_or((1.0, 1.0), |(_, created, listed)| (created.p50_ms, listed.p50_ms));
        for (tenants, Measured { p50_ms: created, .. }, Measured { p50_ms: listed, .. }) in &self.by_tenants {
            let (by, on) = (created / first.0, listed / first.1);
            writeln!(growth, "| {tenants} | {created:.2} ms | {by:.2} | {listed:.2} ms | {on:.2} |").unwrap();
        }
        let (machine, table, postgres) = (machine(), table(&self.rows), &self.postgres);
        let (at_rest, at_most, start_ms) = (mib(self.at_rest_kib), mib(self.under_load_kib), self.start_ms);
        format!(
            "{machine}Postgres {postgres}, fsync on.\n\n{table}\n\
             ![rate](benchmarks-rate.svg)\n\n![latency](benchmarks-latency.svg)\n\n{growth}\n\
             ![growth](benchmarks-growth.svg)\n\nThe goal is 1.5 times the first at most.\n\n\
             The server takes {at_rest} at rest (goal: 30), and took {at_most} at most up to 128 creators (goal: 80, with 64). \
             From the start of a process to SERVING: {start_ms:.0} ms (goal: 150).\n\n![memory](benchmarks-memory.svg)\n"
        )
    }
}

/// What it ran on, and what was built.
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
        "{cores} cores of {model}, Linux {}. Turnkey {version}, release build by {}, the log on. ",
        kernel.trim(),
        rustc.trim()
    )
}

/// A name, a colour and points.
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
