"""What a clinic's SuperNode runs: train on the own rows, and say how well the model does there."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clinic.task import model, rows, trained

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    clinic = int(context.node_config["clinic"])
    arrays = trained(message.content["arrays"].to_numpy_ndarrays(), clinic)
    metrics = MetricRecord({"num-examples": len(rows(clinic)[1])})
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    matrix, ill = rows(int(context.node_config["clinic"]))
    found = model(message.content["arrays"].to_numpy_ndarrays())
    accuracy = float(found.score(matrix, ill))
    metrics = MetricRecord({"accuracy": accuracy, "num-examples": len(ill)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
