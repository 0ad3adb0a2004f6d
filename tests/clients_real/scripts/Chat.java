// Prints the lines of one streamed chat as Java's own client receives them: BASE_URL MODEL PROMPT TOKENS.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Chat {
    public static void main(String[] words) throws Exception {
        String body = String.format(
            "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"temperature\":0,"
                + "\"max_tokens\":%s,\"stream\":true,\"ignore_eos\":true}", words[1], words[2], words[3]);
        HttpRequest request = HttpRequest.newBuilder(URI.create(words[0] + "/chat/completions"))
            .header("content-type", "application/json").POST(HttpRequest.BodyPublishers.ofString(body)).build();
        var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofLines());
        if (response.statusCode() != 200) {
            throw new IllegalStateException("status " + response.statusCode());
        }
        var out = new java.io.PrintStream(System.out, false, "UTF-8");
        response.body().forEach(out::println);
        out.flush();
    }
}
