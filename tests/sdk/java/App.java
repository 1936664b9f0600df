import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.domain.ConstantFailurePolicy;
import io.dapr.client.domain.DeleteJobRequest;
import io.dapr.client.domain.DropFailurePolicy;
import io.dapr.client.domain.FailurePolicy;
import io.dapr.client.domain.GetJobRequest;
import io.dapr.client.domain.GetJobResponse;
import io.dapr.client.domain.JobSchedule;
import io.dapr.client.domain.ScheduleJobRequest;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.Executors;

/**
 * An app on the Dapr SDK for Java, told what to do line by line (see tests/sdk/app.py): {@code App PORT JOB...}. The SDK
 * schedules over gRPC and has nothing that receives: an app serves POST /job/NAME itself. It fails jobs called fail*.
 */
public final class App {
  private static final ObjectMapper JSON = new ObjectMapper();

  private static synchronized void say(String key, Object value, Object... more) throws IOException {
    Map<String, Object> line = new LinkedHashMap<>();
    line.put(key, value);
    for (int index = 0; index < more.length; index += 2) {
      line.put((String) more[index], more[index + 1]);
    }
    System.out.println(JSON.writeValueAsString(line));
    System.out.flush();
  }

  private static void handle(HttpExchange exchange) throws IOException {
    String name = exchange.getRequestURI().getPath().substring("/job/".length());
    say("trigger", name, "data", exchange.getRequestBody().readAllBytes());
    exchange.sendResponseHeaders(name.startsWith("fail") ? 500 : 204, -1);
    exchange.close();
  }

  private static FailurePolicy policy(JsonNode wanted) {
    if (wanted.has("drop")) {
      return new DropFailurePolicy();
    }
    ConstantFailurePolicy policy = new ConstantFailurePolicy(Duration.ofSeconds(wanted.get("interval_seconds").asLong()));
    if (wanted.hasNonNull("max_retries")) {
      policy.setMaxRetries(wanted.get("max_retries").asInt());
    }
    return policy;
  }

  private static Object plain(FailurePolicy policy) {
    if (policy instanceof DropFailurePolicy) {
      return Map.of("drop", true);
    }
    if (policy instanceof ConstantFailurePolicy) {
      Map<String, Object> shown = new HashMap<>();
      Duration between = ((ConstantFailurePolicy) policy).getDurationBetweenRetries();
      shown.put("interval_seconds", between == null ? null : between.toSeconds());
      shown.put("max_retries", ((ConstantFailurePolicy) policy).getMaxRetries());
      return shown;
    }
    return null;
  }

  private static Object schedule(DaprClient dapr, JsonNode command) throws IOException {
    String name = command.get("name").asText();
    Instant due = command.hasNonNull("due_time") ? Instant.parse(command.get("due_time").asText()) : null;
    ScheduleJobRequest request;
    if (command.hasNonNull("schedule")) {
      request = new ScheduleJobRequest(name, JobSchedule.fromString(command.get("schedule").asText()));
      if (due != null) {
        request.setDueTime(due);
      }
    } else {
      request = new ScheduleJobRequest(name, due);
    }
    if (command.hasNonNull("repeats")) {
      request.setRepeat(command.get("repeats").asInt());
    }
    if (command.hasNonNull("ttl")) {
      request.setTtl(Instant.parse(command.get("ttl").asText()));
    }
    if (command.hasNonNull("data")) {
      request.setData(command.get("data").binaryValue());
    }
    if (command.hasNonNull("policy")) {
      request.setFailurePolicy(policy(command.get("policy")));
    }
    if (command.hasNonNull("overwrite")) {
      request.setOverwrite(command.get("overwrite").asBoolean());
    }
    dapr.scheduleJob(request).block();
    return null;
  }

  private static Object get(DaprClient dapr, String name) {
    GetJobResponse job = dapr.getJob(new GetJobRequest(name)).block();
    Map<String, Object> shown = new HashMap<>();
    shown.put("name", job.getName());
    shown.put("schedule", job.getSchedule() == null ? null : job.getSchedule().getExpression());
    shown.put("repeats", job.getRepeats());
    shown.put("due_time", job.getDueTime() == null ? null : job.getDueTime().toString());
    shown.put("ttl", job.getTtl() == null ? null : job.getTtl().toString());
    shown.put("data", job.getData());
    shown.put("policy", plain(job.getFailurePolicy()));
    return shown;
  }

  public static void main(String[] arguments) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 0);
    server.createContext("/job/", App::handle);
    server.setExecutor(Executors.newCachedThreadPool());
    server.start();
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    try (DaprClient dapr = new DaprClientBuilder().build()) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        JsonNode command = JSON.readTree(line);
        String name = command.get("name").asText();
        try {
          switch (command.get("do").asText()) {
            case "schedule" -> say("done", schedule(dapr, command));
            case "get" -> say("done", get(dapr, name));
            case "delete" -> {
              dapr.deleteJob(new DeleteJobRequest(name)).block();
              say("done", null);
            }
            default -> say("error", "unknown command");
          }
        } catch (RuntimeException error) {
          say("error", String.valueOf(error.getMessage()));
        }
      }
    }
    System.exit(0);
  }
}
