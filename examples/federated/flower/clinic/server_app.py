"""What the SuperLink runs, beside the enclave's end of the tunnel: FedAvg, as Flower has it."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from clinic.task import start

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    clients = int(context.run_config["clients"])
    strategy = FedAvg(
        min_train_nodes=clients, min_evaluate_nodes=clients, min_available_nodes=clients
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(start()),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    accuracy = [*result.evaluate_metrics_clientapp.values()][-1]["accuracy"]
    print(f"ACCURACY {accuracy:.4f}", flush=True)
