import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;

/** Logs in once per argument (name|mode|host|port|root, see integration/tls/drivers.rs) and says what came of each. */
public class Tls {
    public static void main(String[] cases) throws Exception {
        for (String entry : cases) {
            String[] words = entry.split("\\|", -1);
            Properties properties = new Properties();
            properties.setProperty("user", "app");
            properties.setProperty("password", "app");
            properties.setProperty("sslmode", words[1]);
            properties.setProperty("gssEncMode", "disable");
            if (!words[4].isEmpty()) {
                properties.setProperty("sslrootcert", words[4]);
            }
            String url = "jdbc:postgresql://" + words[2] + ":" + words[3] + "/app";
            String outcome;
            try (Connection connection = DriverManager.getConnection(url, properties);
                    ResultSet found = connection.createStatement().executeQuery("SELECT 7")) {
                found.next();
                outcome = found.getInt(1) == 7 ? "in" : "a wrong answer";
            } catch (SQLException error) {
                outcome = "refused";
            }
            System.out.println(words[0] + " " + outcome);
        }
    }
}
