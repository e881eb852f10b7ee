// A hundred OpenDHT nodes in one process on loopback: puts and gets by turns, one JSON object on stdout.
//   nodes NODES VALUES GETS
// c++ -O2 -std=c++17 nodes.cpp -o nodes -lopendht   (Debian: libopendht-dev)
#include <opendht.h>
#include <sys/resource.h>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

static double cpu() {
    rusage use{};
    getrusage(RUSAGE_SELF, &use);
    auto seconds = [](timeval t) { return t.tv_sec + t.tv_usec / 1e6; };
    return seconds(use.ru_utime) + seconds(use.ru_stime);
}

static double since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

static void print(const char* name, std::vector<double> times, size_t of, double cpu_s, const char* end) {
    std::sort(times.begin(), times.end());
    auto at = [&](double q) { return times.empty() ? -1.0 : times[std::min(times.size() - 1, size_t(q * times.size()))]; };
    std::printf("\"%s\": {\"good\": %zu, \"of\": %zu, \"p50_ms\": %.2f, \"p90_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f, "
                "\"cpu_ms_all_nodes_each\": %.2f}%s",
                name, times.size(), of, at(.5), at(.9), at(.99), at(1), cpu_s * 1000 / of, end);
}

int main(int argc, char** argv) {
    const int nodes = argc > 1 ? std::atoi(argv[1]) : 100, values = argc > 2 ? std::atoi(argv[2]) : 20,
              gets = argc > 3 ? std::atoi(argv[3]) : 400, readers = 5;
    std::vector<std::unique_ptr<dht::DhtRunner>> all;
    const double joining = cpu();
    const auto began = Clock::now();
    for (int n = 0; n < nodes + readers; ++n) {
        auto node = std::make_unique<dht::DhtRunner>();
        dht::DhtRunner::Config config{};
        config.threaded = true;
        // All nodes have one address: its bound on requests per address is not what is measured.
        config.dht_config.node_config.max_req_per_sec = -1;
        config.dht_config.node_config.max_peer_req_per_sec = -1;
        node->run(0, config);
        for (int k = 0; k < 3 && k < n; ++k) node->bootstrap("127.0.0.1", std::to_string(all[k]->getBoundPort()));
        all.push_back(std::move(node));
    }
    const auto deadline = Clock::now() + std::chrono::seconds(60);
    auto known = [&](int n) { return all[n]->getNodesStats(AF_INET).good_nodes; };
    unsigned least = 0;
    do {
        std::this_thread::sleep_for(std::chrono::milliseconds(500));
        least = known(0);
        for (int n = 1; n < nodes + readers; ++n) least = std::min<unsigned>(least, known(n));
    } while (least < 8 && Clock::now() < deadline);
    const double joined = since(began), joined_cpu = cpu() - joining;

    std::vector<double> put_ms, get_ms, done_ms;
    std::vector<dht::InfoHash> keys;
    double before = cpu();
    const std::vector<uint8_t> value(900, 7);  // about the size of a signed binding
    for (int n = 0; n < values; ++n) {
        keys.push_back(dht::InfoHash::getRandom());
        std::promise<bool> done;
        auto result = done.get_future();
        const auto start = Clock::now();
        all[n % 10]->put(keys.back(), dht::Value(value), [&](bool ok) { done.set_value(ok); });
        if (result.wait_for(std::chrono::seconds(20)) == std::future_status::ready && result.get()) put_ms.push_back(since(start));
    }
    const double put_cpu = cpu() - before;
    before = cpu();
    for (int n = 0; n < gets; ++n) {
        struct State { std::promise<void> done; double first = -1; };
        auto state = std::make_shared<State>();
        auto over = state->done.get_future();
        const auto start = Clock::now();
        all[nodes + n % readers]->get(
            keys[n % keys.size()],
            [state, start](const std::vector<std::shared_ptr<dht::Value>>&) {
                if (state->first < 0) state->first = since(start);
                return false;  // the first is enough
            },
            [state](bool) { state->done.set_value(); });
        if (over.wait_for(std::chrono::seconds(20)) != std::future_status::ready) continue;
        if (state->first >= 0 && state->first <= 3000) get_ms.push_back(state->first);
    }
    const double get_cpu = cpu() - before;
    std::printf("{\"strategy\": \"OpenDHT\", \"nodes\": %d, \"least_good_nodes\": %u, \"joining_s\": %.1f, \"joining_cpu_s\": %.1f, ",
                nodes, least, joined / 1000, joined_cpu);
    print("put", put_ms, values, put_cpu, ", ");
    print("get", get_ms, gets, get_cpu, "}\n");
    std::fflush(stdout);
    // Stopping a hundred nodes in order says nothing.
    std::_Exit(put_ms.empty() || get_ms.empty());
}
